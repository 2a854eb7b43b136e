"""The program ``robustnorm``; handles Ctrl-C even while it is still loading."""

import sys


def main() -> int:
    """Runs the command line; returns the exit status."""
    try:
        from robustnorm.cli import main as run

        return run()
    except KeyboardInterrupt:
        sys.stderr.write("robustnorm: interrupted before it started\n")
        return 130


if __name__ == "__main__":
    sys.exit(main())

"""The program ``robustnorm``; handles Ctrl-C even while it is still loading."""

import os
import signal
import sys
from types import FrameType


def main() -> int:
    """Runs the command line; returns the exit status."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # otherwise it is ignored
        signal.signal(signal.SIGINT, _leave)
    from robustnorm.cli import main as run

    return run()


def _leave(_number: int, _frame: FrameType | None) -> None:
    # Not an exception: within an import it could be mistaken for another one, or be lost.
    os.write(2, b"robustnorm: interrupted before it started\n")
    os._exit(130)


if __name__ == "__main__":
    sys.exit(main())

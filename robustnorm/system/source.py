"""Which commit of the source is running."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

_ROOT = Path(__file__).parents[2]


def source_commit() -> dict[str, str]:
    """Returns {"commit": hash}, with "-dirty" after a change; {} where there is no repository.

    A copy of the tree without its repository can be told the commit in ROBUSTNORM_COMMIT.
    """
    told = os.environ.get("ROBUSTNORM_COMMIT")
    if told:
        return {"commit": told}
    if not (_ROOT / ".git").exists():  # installed, perhaps inside another project's repository
        return {}
    command = ["git", "-C", str(_ROOT), "describe", "--always", "--dirty", "--abbrev=12"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return {}
    return {"commit": done.stdout.strip()}

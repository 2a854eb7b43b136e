"""The commit of the running source, and the versions of what its numbers depend on."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path

_ROOT = Path(__file__).parents[2]


def source_commit() -> dict[str, str]:
    """Returns {"commit": hash}, with "-dirty" after local changes, or {} without a repository.

    The environment variable ROBUSTNORM_COMMIT names the commit of a copy without a repository.
    """
    commit = os.environ.get("ROBUSTNORM_COMMIT")
    if commit:
        return {"commit": commit}
    if not (_ROOT / ".git").exists():  # installed, perhaps inside another project's repository
        return {}
    command = ["git", "-C", str(_ROOT), "describe", "--always", "--dirty", "--abbrev=12"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return {}
    return {"commit": done.stdout.strip()}


def version_differences(there: Mapping[str, str], here: Mapping[str, str]) -> str:
    """Describes how the versions and the device of an earlier result differ from those here.

    Compares only what ``here`` names; returns "" if all of that is equal.

    Examples:
        >>> version_differences({"torch": "2.12.0", "device": "CPU"}, {"torch": "2.13.0"})
        'torch 2.12.0, here 2.13.0'
    """
    names = [name for name in here if there.get(name) != here[name]]
    return "; ".join(f"{name} {there.get(name, 'unknown')}, here {here[name]}" for name in names)


def versions() -> dict[str, str]:
    """Returns the versions of the packages on which verdicts depend."""
    return {name: version(name) for name in ("robustnorm", "torch", "numpy")}

"""All targets, by name."""

from __future__ import annotations

from pathlib import Path

import fuzz_files
import fuzz_records
import fuzz_settings
from fuzz_harness import Target

KINDS = {"settings": fuzz_settings, "records": fuzz_records, "files": fuzz_files}


def targets(folder: Path, *kinds: str) -> dict[str, Target]:
    """Returns the targets of some kinds, by default of all; their files lie in a new folder."""
    made: dict[str, Target] = {}
    for kind in kinds or KINDS:
        (folder / kind).mkdir(parents=True)
        made |= KINDS[kind].targets(folder / kind)
    return made

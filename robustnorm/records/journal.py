"""Finished parts of an evaluation, saved in a file so that a killed evaluation can continue."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import NamedTuple

from robustnorm.attacks.passes import Passes
from robustnorm.records.record import Bits, pack, unpack
from robustnorm.system.files import disk_errors


class Key(NamedTuple):
    """Identifies a verdict; fields as in ``Verdict``."""

    attack: str
    rule: str
    attack_branch: str
    score_branch: str


class Part(NamedTuple):
    """Verdicts on some images: correctness and the copy's agreement, bool (n,), and passes."""

    correct: Bits
    agrees: Bits
    passes: Passes = Passes()


class Journal:
    """Verdicts of finished parts, one per line; without a path they are only in memory.

    Attributes:
        parts: Verdicts by number of the part.
        seconds: Time spent on those parts.

    Args:
        path: The file; deleted if it has another fingerprint.
        fingerprint: Identifies everything that the verdicts depend on.
    """

    def __init__(self, path: Path | None, fingerprint: str) -> None:
        self._path = path
        self._fingerprint = fingerprint
        self.parts: dict[int, dict[Key, Part]] = {}
        self.seconds = 0.0
        for line in path.read_text().splitlines() if path is not None and path.exists() else []:
            try:
                entry = json.loads(line)
            except json.JSONDecodeError:  # an empty line, or one interrupted by a kill
                continue
            if entry["fingerprint"] != fingerprint:
                assert path is not None
                path.unlink()
                self.parts.clear()
                self.seconds = 0.0
                return
            size = entry["size"]
            self.parts[entry["part"]] = {
                Key(*key): Part(unpack(correct, size), unpack(agrees, size), Passes(*passes))
                for key, correct, agrees, *passes in entry["verdicts"]
            }
            self.seconds += entry.get("seconds", 0.0)  # missing in older journals

    def add(self, number: int, verdicts: dict[Key, Part], seconds: float = 0.0) -> None:
        """Saves the verdicts of a part that took ``seconds``; on disk when this returns."""
        self.parts[number] = verdicts
        self.seconds += seconds
        if self._path is None:
            return
        entry = {
            "fingerprint": self._fingerprint,
            "part": number,
            "seconds": round(seconds, 3),
            "size": len(next(iter(verdicts.values())).correct),
            "verdicts": [
                [key, pack(p.correct), pack(p.agrees), *p.passes] for key, p in verdicts.items()
            ],
        }
        # Starts a new line, in case a kill left an incomplete one.
        line = "\n" + json.dumps(entry)
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with disk_errors(self._path, len(line)), self._path.open("a") as file:
            file.write(line)
            file.flush()
            os.fsync(file.fileno())

"""Finished parts of an evaluation, kept in a file so that a killed one goes on where it was."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import NamedTuple

from robustnorm.attacks.passes import Passes
from robustnorm.records.record import Bits, pack, unpack
from robustnorm.system.files import disk_errors


class Key(NamedTuple):
    """Which verdict: names as in ``Verdict``."""

    attack: str
    rule: str
    attack_branch: str
    score_branch: str


class Part(NamedTuple):
    """Of some images: whether each is correct, whether the search agreed; bool (n,); passes."""

    correct: Bits
    agrees: Bits
    passes: Passes = Passes()


class Journal:
    """Verdicts of finished parts, one line a part; without a path, only those of this process.

    Attributes:
        parts: Number of a part to its verdicts.
        seconds: Spent on those parts.

    Args:
        path: Of the file. One of another fingerprint is deleted.
        fingerprint: Of all that the verdicts depend on.
    """

    def __init__(self, path: Path | None, fingerprint: str) -> None:
        self._path = path
        self._fingerprint = fingerprint
        self.parts: dict[int, dict[Key, Part]] = {}
        self.seconds = 0.0
        for line in path.read_text().splitlines() if path is not None and path.exists() else []:
            try:
                entry = json.loads(line)
            except json.JSONDecodeError:  # empty, or the kill came while it was written
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
            self.seconds += entry.get("seconds", 0.0)  # older journals have none

    def add(self, number: int, verdicts: dict[Key, Part], seconds: float = 0.0) -> None:
        """Keeps the verdicts of a part that took ``seconds``; on the disk when this returns."""
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
        # A line of its own even where a kill left half a line behind.
        line = "\n" + json.dumps(entry)
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with disk_errors(self._path, len(line)), self._path.open("a") as file:
            file.write(line)
            file.flush()
            os.fsync(file.fileno())

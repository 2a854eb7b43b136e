"""Finished parts of an evaluation, saved in a file so that a killed evaluation can continue."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from robustnorm.attacks.passes import Passes
from robustnorm.records.bits import Bits, pack, unpack
from robustnorm.records.record import RecordError
from robustnorm.system.errors import UsageError
from robustnorm.system.files import disk_errors
from robustnorm.system.sealed import seal, unseal
from robustnorm.system.shapes import check_shape, count, finite
from robustnorm.system.source import differences
from robustnorm.system.untrusted import parse_json

log = logging.getLogger("robustnorm")


def _verdict(entry: Any) -> None:
    """The shape of a verdict: its key, bits of correctness and agreement, passes."""
    key, correct, agrees, *passes = entry
    check_shape([key, [correct, agrees], passes], [list])
    check_shape([*key, correct, agrees], [str])
    check_shape(passes, [count])


# A line of a journal, without its hash.
_LINE = {
    "fingerprint": str,
    "part": count,
    "seconds": finite,
    "images?": str,
    "size": count,
    "verdicts": [_verdict],
    "by": {"*": str},
}


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
        images: sha256 of the file of kept images by number of the part, "" without one.
        seconds: Time spent on those parts.
        devices: Names of the devices of those parts.

    Args:
        path: The file; deleted, with a warning, if it has another fingerprint.
        fingerprint: Identifies everything that was asked for.
        by: Versions and device, from ``made_by``, on which the last bits of verdicts depend.
        required: Names in ``by`` that must be the same as before; all by default.

    Raises:
        UsageError: When the parts in the file were made by other versions or on another device.
    """

    def __init__(
        self,
        path: Path | None,
        fingerprint: str,
        by: Mapping[str, str] | None = None,
        required: Iterable[str] | None = None,
    ) -> None:
        self._path = path
        self._fingerprint = fingerprint
        self._by = dict(by or {})
        self.devices = set[str]()
        compared = {name: self._by[name] for name in (self._by if required is None else required)}
        self.parts: dict[int, dict[Key, Part]] = {}
        self.images: dict[int, str] = {}
        self.seconds = 0.0
        spent = dict[int, float]()  # of a line that is there twice, once
        damaged = 0
        for line in path.read_bytes().splitlines() if path is not None and path.exists() else []:
            if not line.strip():
                continue
            try:
                entry, _ = unseal(parse_json(line), required=True)
                check_shape(entry, _LINE)
                size = entry["size"]
                verdicts = {
                    Key(*key): Part(unpack(correct, size), unpack(agrees, size), Passes(*passes))
                    for key, correct, agrees, *passes in entry["verdicts"]
                }
                if not size or not verdicts:
                    raise ValueError("it has no verdicts")
                # Only now, since nothing of a damaged line counts.
                written, number, seconds = entry["fingerprint"], entry["part"], entry["seconds"]
                by = dict(entry["by"])
            except (ValueError, KeyError, TypeError):  # incomplete after a kill, or damaged
                damaged += 1
                continue
            assert path is not None
            if written != fingerprint:
                log.warning("%s is of another evaluation, and is begun anew", path)
                path.unlink()
                self.parts.clear()
                self.images.clear()
                self.devices.clear()
                return
            if odd := differences(by, compared):
                raise UsageError(
                    f"{path} was begun by others ({odd}), so that verdicts may differ in the last "
                    "bits; continue with those, or remove it to begin anew"
                )
            self.devices.update(name for key, name in by.items() if key == "device")
            self.parts[number] = verdicts
            self.images[number] = entry.get("images", "")
            spent[number] = seconds
        self.seconds = sum(spent.values())
        if damaged:
            log.warning(
                "%s: %d lines are incomplete or damaged; their images are evaluated again",
                path, damaged,
            )  # fmt: skip

    def forget_others(self, sizes: Sequence[int]) -> None:
        """Forgets parts that are not among those of ``sizes`` images, in their order."""
        for number, verdicts in list(self.parts.items()):
            found = {len(part.correct) for part in verdicts.values()}
            if number >= len(sizes) or found != {sizes[number]}:
                del self.parts[number], self.images[number]

    def collected(self, most: int) -> list[dict[Key, Part]]:
        """Returns the first ``most`` parts.

        Raises:
            RecordError: When they are not verdicts of the same attacks.
        """
        found = [self.parts[number] for number in range(most)]
        if any(part.keys() != found[0].keys() for part in found):
            raise RecordError(f"{self._path} holds verdicts of several evaluations; remove it")
        return found

    def add(
        self, number: int, verdicts: dict[Key, Part], seconds: float = 0.0, images: str = ""
    ) -> None:
        """Saves the verdicts of a part that took ``seconds``; on disk when this returns.

        ``images`` is the sha256 of the file of its kept images.
        """
        self.parts[number] = verdicts
        self.images[number] = images
        self.seconds += seconds
        if self._path is None:
            return
        entry = {
            "fingerprint": self._fingerprint,
            "by": self._by,
            "part": number,
            "seconds": round(seconds, 3),
            "images": images,
            "size": len(next(iter(verdicts.values())).correct),
            "verdicts": [
                [key, pack(p.correct), pack(p.agrees), *p.passes] for key, p in verdicts.items()
            ],
        }
        # Starts a new line, in case a kill left an incomplete one.
        line = "\n" + json.dumps(seal(entry))
        with disk_errors(self._path, len(line)):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with self._path.open("a") as file:
                file.write(line)
                file.flush()
                os.fsync(file.fileno())

"""Finished chunks of an evaluation, saved in a file so that a killed evaluation can continue."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from robustnorm.attacks.passes import Passes
from robustnorm.records.bits import Bits, decode, encode, pack_bits, unpack_bits
from robustnorm.records.record import RecordError
from robustnorm.system.errors import UsageError
from robustnorm.system.files import disk_errors
from robustnorm.system.sealed import seal, unseal
from robustnorm.system.source import version_differences
from robustnorm.system.structure import check_structure, count, finite
from robustnorm.system.untrusted import parse_json

log = logging.getLogger("robustnorm")


def _verdict(entry: Any) -> None:
    """Checks for a verdict: its key, bits of correctness and agreement, and passes."""
    key, correct, agrees, *passes = entry
    check_structure([key, [correct, agrees], passes], [list])
    check_structure([*key, correct, agrees], [str])
    check_structure(passes, [count])


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


class ChunkVerdict(NamedTuple):
    """A verdict on a chunk of images: correctness and the copy's agreement, (n,), and passes."""

    correct: Bits
    agrees: Bits
    passes: Passes = Passes()


class Journal:
    """Verdicts on finished chunks, one chunk per line; without a path only in memory.

    Attributes:
        chunks: Verdicts by number of the chunk.
        images: sha256 of the file of kept images by number of the chunk, "" without one.
        seconds: Time spent on those chunks.
        devices: Names of the devices that computed those chunks.

    Args:
        path: The file; deleted, with a warning, if it has another fingerprint.
        fingerprint: Identifies everything that was requested.
        by: Versions and device, from ``made_by``, on which the last bits of verdicts depend.
        required: Names in ``by`` whose values must be the same as before; all by default.

    Raises:
        UsageError: When the chunks in the file come from other versions or another device.
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
        self.chunks: dict[int, dict[Key, ChunkVerdict]] = {}
        self.images: dict[int, str] = {}
        self.seconds = 0.0
        spent = dict[int, float]()  # by chunk, so that a repeated line counts once
        damaged = 0
        for line in path.read_bytes().splitlines() if path is not None and path.exists() else []:
            if not line.strip():
                continue
            try:
                entry, _ = unseal(parse_json(line), required=True)
                check_structure(entry, _LINE)
                size = entry["size"]
                verdicts = {
                    Key(*key): ChunkVerdict(
                        unpack_bits(decode(correct), size),
                        unpack_bits(decode(agrees), size),
                        Passes(*passes),
                    )
                    for key, correct, agrees, *passes in entry["verdicts"]
                }
                if not size or not verdicts:
                    raise ValueError("it has no verdicts")
                # Assigned last, so that nothing of a damaged line counts.
                written, number, seconds = entry["fingerprint"], entry["part"], entry["seconds"]
                by = dict(entry["by"])
            except (ValueError, KeyError, TypeError):  # incomplete after a kill, or damaged
                damaged += 1
                continue
            assert path is not None
            if written != fingerprint:
                log.warning("%s belongs to another evaluation and is started again", path)
                path.unlink()
                self.chunks.clear()
                self.images.clear()
                self.devices.clear()
                return
            if found := version_differences(by, compared):
                raise UsageError(
                    f"{path} was begun with others ({found}), so verdicts may differ in the last "
                    "bits; continue with those, or remove it to start again"
                )
            self.devices.update(name for key, name in by.items() if key == "device")
            self.chunks[number] = verdicts
            self.images[number] = entry.get("images", "")
            spent[number] = seconds
        self.seconds = sum(spent.values())
        if damaged:
            log.warning(
                "%s: %d lines are incomplete or damaged; their images are evaluated again",
                path, damaged,
            )  # fmt: skip

    def forget_others(self, sizes: Sequence[int]) -> None:
        """Forgets chunks that do not have the expected ``sizes``, in images by number."""
        for number, verdicts in list(self.chunks.items()):
            found = {len(verdict.correct) for verdict in verdicts.values()}
            if number >= len(sizes) or found != {sizes[number]}:
                del self.chunks[number], self.images[number]

    def collected(self, most: int) -> list[dict[Key, ChunkVerdict]]:
        """Returns the first ``most`` chunks.

        Raises:
            RecordError: When they are not verdicts of the same attacks.
        """
        found = [self.chunks[number] for number in range(most)]
        if any(chunk.keys() != found[0].keys() for chunk in found):
            raise RecordError(f"{self._path} holds verdicts of several evaluations; remove it")
        return found

    def add(
        self, number: int, verdicts: dict[Key, ChunkVerdict], seconds: float = 0.0, images: str = ""
    ) -> None:
        """Saves the verdicts on a chunk that took ``seconds``; they are on disk on return.

        ``images`` is the sha256 of the file of its kept images.
        """
        self.chunks[number] = verdicts
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
                [key, encode(pack_bits(v.correct)), encode(pack_bits(v.agrees)), *v.passes]
                for key, v in verdicts.items()
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

"""Results of single jobs put together: sorted by image, each image exactly once."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from robustnorm.records.journal import Key, Part
from robustnorm.records.record import Record, fingerprint, pack, unpack
from robustnorm.system.errors import RefusedFileError, UserError
from robustnorm.system.files import write_atomically


class MergeError(UserError):
    """Results are missing, or an image is in more than one of them."""


class Result(NamedTuple):
    """What one job found.

    Args:
        attack: Name of the attack.
        branch: That was attacked.
        image_ids: Places of the images in the test set.
        verdicts: In the order of ``image_ids``.
        images_sha256: Of the file of adversarial images beside it, "" where none are kept.
    """

    attack: str
    branch: str
    image_ids: list[int]
    verdicts: dict[Key, Part]
    images_sha256: str = ""


def write_result(path: Path, result: Result) -> None:
    """Writes a result whole or not at all; the same result gives the same bytes."""
    content = result._asdict() | {
        "verdicts": [[*key, pack(p.correct), pack(p.agrees)] for key, p in result.verdicts.items()]
    }
    write_atomically(path, json.dumps(content).encode(), shared=True)


def read_result(path: Path) -> Result:
    """Returns the result that ``write_result`` was given.

    Raises:
        MergeError: When there is none.
        RefusedFileError: When the file is none.
    """
    try:
        content = json.loads(path.read_text())
        n = len(content["image_ids"])
        verdicts = {
            Key(*key): Part(unpack(correct, n), unpack(agrees, n))
            for *key, correct, agrees in content["verdicts"]
        }
        return Result(**content | {"verdicts": verdicts})
    except FileNotFoundError as error:
        raise MergeError(f"there is no result {path}; give the same command again") from error
    except (ValueError, KeyError, TypeError) as error:
        raise RefusedFileError(
            f"{path} is no result of a job ({error}); remove it and give the same command again"
        ) from error


def merge(results: Sequence[Result], image_ids: Sequence[int]) -> dict[Key, Part]:
    """Returns the verdicts on all images, in ascending order of their ids.

    Args:
        results: In any order; pairs of attack and branch in the order of their first result.
        image_ids: Every image that each pair of attack and branch must have exactly once.

    Raises:
        MergeError: When one is missing, is there twice, or was not asked for; names them.
    """
    pairs: dict[tuple[str, str], list[Result]] = {}
    for result in results:
        pairs.setdefault((result.attack, result.branch), []).append(result)
    merged: dict[Key, Part] = {}
    for (attack, branch), parts in pairs.items():
        ids = np.concatenate([part.image_ids for part in parts])
        _check_complete(f"{attack} on {branch}", Counter(ids.tolist()), Counter(image_ids))
        order = ids.argsort()
        for key in parts[0].verdicts:
            bits = zip(*(part.verdicts[key] for part in parts), strict=True)
            merged[key] = Part(*(np.concatenate(each)[order] for each in bits))
    return merged


def _check_complete(what: str, found: Counter[int], wanted: Counter[int]) -> None:
    faults = {
        "are missing": wanted - found,
        "are there more than once": Counter({i: n for i, n in found.items() if n > 1}),
        "were not asked for": found.keys() - wanted.keys(),
    }
    for fault, images in faults.items():
        if images:
            few = ", ".join(map(str, sorted(images)[:10]))
            raise MergeError(
                f"{what}: each image must have exactly one verdict, {len(images)} {fault}: "
                f"{few}{', ...' if len(images) > 10 else ''}; give the same command again"
            )


def digest(record: Record) -> str:
    """Returns 16 hex digits that follow from the images and every verdict on them, alone."""
    verdicts = [
        [v.attack, v.rule, v.attack_branch, v.score_branch, pack(v.correct), v.disagreements]
        for v in record.verdicts
    ]
    return fingerprint({"image_ids": record.image_ids, "verdicts": verdicts})

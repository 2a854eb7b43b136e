"""Re-checks a record against its checkpoint, data and kept images, without the attacks' code."""

from __future__ import annotations

from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from tqdm import tqdm

from robustnorm.attacks.logits import LogitsModel
from robustnorm.data.dataset import Dataset
from robustnorm.models.serving import RULES, Served
from robustnorm.norms.routing import bind
from robustnorm.records.bits import Bits
from robustnorm.records.images import read_chunk
from robustnorm.records.journal import Key
from robustnorm.records.record import TRANSFER, Record, RecordError, Verdict
from robustnorm.system.precision import exact_float32

Array = NDArray[Any]

# Accepted excess over the radius from float32 rounding: half a unit in the last place near 1 is
# 3e-8 per value, and l2 adds up thousands of values.
_EXCESS = {"linf": 1e-6, "l2": 1e-5}
# Logits that differ by less, relative to the range of an image's logits, may change their order on
# another device or in another batch.
_TIE = 1e-4
# An honest network has one tie in a few thousand predictions. One with a huge constant added to its
# logits has only ties, and would agree with any verdict.
_MOST_TIES = 0.01
_BATCH = 100
# Number of failures that are described.
_NAMED = 3


@dataclass
class Verification:
    """Result of one kind of check of a record.

    Args:
        subject: What was checked.
        checked: Number of checks.
        failed: Number of failures.
        failures: Descriptions of the first failures.
    """

    subject: str
    checked: int = 0
    failed: int = 0
    failures: list[str] = field(default_factory=list)

    def add(self, holds: bool, what: str) -> None:
        """Counts one check; ``what`` describes the failure if it does not hold."""
        self.checked += 1
        if not holds:
            self.failed += 1
            self.failures += [what] * (len(self.failures) < _NAMED)

    def add_images(self, hold: Bits, image_ids: Array, what: str) -> None:
        """Counts one check per image, (n,)."""
        for image_id in image_ids[~hold][:_NAMED]:
            self.add(False, f"image {image_id}, {what}")
        named = min(_NAMED, int((~hold).sum()))
        self.checked += len(hold) - named
        self.failed += int((~hold).sum()) - named

    def add_predictions(self, agrees: Bits, tied: Bits, image_ids: Array, what: str) -> None:
        """Counts one check per image, (n,); disagreements on ties pass if these are rare."""
        if tied.sum() > max(1, _MOST_TIES * len(tied)):
            self.add(False, f"{what}: {int(tied.sum())} of {len(tied)} disagree only by rounding")
        self.add_images(agrees | tied, image_ids, what)


@torch.no_grad()
def verify(
    record: Record,
    model: nn.Module,
    checkpoint_sha256: str,
    dataset: Dataset,
    folder: Path,
    *,
    progress: str | None = None,
) -> list[Verification]:
    """Re-checks every verdict on clean images and on kept adversarial images.

    Ball and range are checked in float64 from the files; predictions are those of the given
    network. The ball is that of the attacked branch. Predictions are not compared when the logits
    of two classes differ only by rounding. Verdicts on transferred images are not checked, since
    those images belong to the record of their own run.

    Args:
        record: The record.
        model: The network of its checkpoint, freshly loaded, in evaluation mode.
        checkpoint_sha256: Hash of that checkpoint.
        dataset: The data, freshly loaded.
        folder: Folder of the kept images; not read if the record names none.
        progress: Text of a progress bar; none by default.

    Returns:
        One result per subject; only the first if the checkpoint or the data are others.
    """
    origin = Verification("checkpoint and data")
    origin.add(checkpoint_sha256 == record.checkpoint["sha256"], "it is another checkpoint")
    origin.add(dataset.sha256 == record.dataset["sha256"], "these are other data")
    if origin.failed:
        return [origin]
    test = dataset.test.take(torch.as_tensor(record.image_ids))  # may stay on disk
    found = check_verdicts(record, model, test.images, test.labels, folder, progress=progress)
    return [origin, *found]


@torch.no_grad()
def check_verdicts(
    record: Record,
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    folder: Path,
    *,
    progress: str | None = None,
) -> list[Verification]:
    """Re-checks labels and verdicts of a record, given its network and images.

    Args:
        record: The record.
        model: Its network, in evaluation mode.
        images: Those evaluated, in the order of the record, uint8 or floating point in [0, 1].
        labels: int64 (N,).
        folder: Folder of the kept images; not read if the record names none.
        progress: Text of a progress bar; none by default.
    """
    ids, classes = np.asarray(record.image_ids), labels.cpu().numpy()
    label, clean = Verification("labels"), Verification("predictions on clean images")
    label.add_images(np.asarray(record.labels) == classes, ids, "label")
    scores = _scores(model, record)
    for verdict in record.verdicts:
        if verdict.attack == "none":
            score = scores[verdict.score_branch]
            for rows in np.split(np.arange(len(ids)), range(_BATCH, len(ids), _BATCH)):
                pixels = _pixels(images[torch.from_numpy(rows)].cpu())
                agrees = _agrees(score, pixels, classes[rows], verdict.correct[rows])
                clean.add_predictions(*agrees, ids[rows], verdict.score_branch)
    findings = [label, clean]
    if record.images:
        findings += _check_kept(record, images, classes, scores, folder, progress)
    return findings


def _check_kept(
    record: Record,
    images: Tensor,
    labels: Array,
    scores: dict[str, nn.Module],
    folder: Path,
    progress: str | None,
) -> list[Verification]:
    """Checks the kept images, one file at a time."""
    files, complete = Verification("files of images"), Verification("every image was kept")
    ball, in_range = Verification("images in the ball"), Verification("images in [0, 1]")
    predictions = Verification("predictions on adversarial images")
    ids = np.asarray(record.image_ids)
    row_of = {image_id: row for row, image_id in enumerate(record.image_ids)}
    attacked = [
        v for v in record.verdicts if v.attack != "none" and not v.attack.startswith(TRANSFER)
    ]
    seen = {_source(verdict): np.zeros(record.n, bool) for verdict in attacked}
    names = record.images["files"].items()
    for name, sha256 in tqdm(names, progress, disable=None if progress else True, leave=False):
        try:
            chunk = read_chunk(folder / Path(name).name, sha256)
        except RecordError as error:
            files.add(False, str(error))
            continue
        rows = np.asarray([row_of.get(image_id, -1) for image_id in chunk.image_ids.tolist()])
        originals = _pixels(images[torch.from_numpy(rows)].cpu()).numpy()
        fits = (rows >= 0).all() and all(
            adv_images.shape == originals.shape for adv_images in chunk.images.values()
        )
        files.add(bool(fits), f"{name} holds other images than the record's")
        if not fits:
            continue
        for key, adv_images in chunk.images.items():
            what = f"{key.attack} ({key.rule}) on {key.attack_branch}"
            attack = record.attack_on(key.attack_branch)
            radius = float(Fraction(attack["epsilon"])) + _EXCESS[attack["threat_model"]]
            distance = _distance(adv_images, originals, attack["threat_model"])
            # NaN compares as false and therefore fails.
            ball.add_images(distance <= radius, chunk.image_ids, what)
            values = adv_images.reshape(len(rows), -1)
            inside = np.all((values >= 0) & (values <= 1), axis=1)
            in_range.add_images(inside, chunk.image_ids, what)
        for verdict in attacked:
            source = _source(verdict)
            if source not in chunk.images:
                continue
            seen[source][rows] = True
            agrees, tied = _agrees(
                scores[verdict.score_branch],
                torch.from_numpy(chunk.images[source]),
                labels[rows],
                verdict.correct[rows],
            )
            what = f"{source.attack} ({source.rule}) on {source.attack_branch}"
            predictions.add_predictions(
                agrees, tied, chunk.image_ids, f"{what}, {verdict.score_branch}"
            )
    for source, found in seen.items():
        complete.add_images(
            found, ids, f"{source.attack} ({source.rule}) on {source.attack_branch}"
        )
    return [files, complete, ball, in_range, predictions]


def _source(verdict: Verdict) -> Key:
    """Returns the key of the images behind a verdict, made on the attacked branch."""
    return Key(verdict.attack, verdict.rule, verdict.attack_branch, verdict.attack_branch)


def _distance(adv_images: Array, originals: Array, threat_model: str) -> Array:
    """Returns each image's largest (linf) or Euclidean (l2) change, (N,), in float64."""
    change = (adv_images.astype(np.float64) - originals).reshape(len(originals), -1)
    distance: Array = np.abs(change).max(1)
    if threat_model == "l2":
        distance = np.sqrt(np.square(change).sum(1))
    return distance


def _scores(model: nn.Module, record: Record) -> dict[str, nn.Module]:
    branches = {name: LogitsModel(bind(model, name)) for name in record.branches}
    rules = [name for name in record.answers if name in RULES]
    return branches | {rule: Served(list(branches.values()), rule) for rule in rules}


def _pixels(images: Tensor) -> Tensor:
    return images.float() / 255 if images.dtype == torch.uint8 else images


@exact_float32()
def _agrees(score: nn.Module, images: Tensor, labels: Array, correct: Bits) -> tuple[Bits, Bits]:
    """Returns whether each image's prediction agrees with the verdict, and whether it only ties."""
    device = next(score.parameters(), images).device
    logits = torch.cat(
        [score(batch.to(device)).cpu() for batch in torch.split(images, _BATCH)]
    ).double()
    z = logits.numpy()
    of_label = np.take_along_axis(z, labels[:, None], 1)[:, 0]
    others = z.copy()
    np.put_along_axis(others, labels[:, None], -np.inf, 1)
    tie = np.abs(of_label - others.max(1)) <= _TIE * np.ptp(z, axis=1)
    agrees: Bits = (z.argmax(1) == labels) == correct
    return agrees, ~agrees & tie

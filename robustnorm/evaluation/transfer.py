"""Transfer attacks: adversarial images of one network, scored by another."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from robustnorm.evaluation.chunks import classify_all, rows_on_device
from robustnorm.evaluation.search import scorers
from robustnorm.records.images import read_chunk
from robustnorm.records.journal import Key
from robustnorm.records.record import TRANSFER, Record, RecordError, Verdict


def transfer(
    model: nn.Module,
    labels: Tensor,
    *,
    image_ids: Tensor,
    source: Record,
    source_images: Path,
    run: str,
    attack: str = "pgd-20",
    serving: bool = False,
    progress: str | None = None,
) -> list[Verdict]:
    """Scores the adversarial images kept for another run with each branch of ``model``.

    The images are read one chunk at a time.

    Args:
        model: In evaluation mode.
        labels: int64 (N,).
        image_ids: int64 (N,), indices of the images in their data set, the same as the source's.
        source: The record of the attacked run.
        source_images: Folder of its images.
        run: Name of that run's folder.
        attack: The attack whose final images are scored.
        serving: Also score with each serving rule.
        progress: Text of a progress bar; none by default.

    Returns:
        Verdicts of attack ``"transfer:<run>"``, rule ``"final"``: ``attack_branch`` is a branch of
        the source, ``score_branch`` a branch or rule of ``model``.

    Raises:
        RecordError: When a file of images is not the one that the record names, or images are
            missing.
    """
    row_of = {image_id: row for row, image_id in enumerate(image_ids.tolist())}
    scores = scorers(model, serving=serving)
    keys = {
        (branch, name): Key(TRANSFER + run, "final", branch, name)
        for branch in source.branches
        for name in scores
    }
    correct = {key: np.zeros(len(labels), bool) for key in keys.values()}
    seen = np.zeros(len(labels), bool)
    files = source.images["files"].items()
    for name, sha256 in tqdm(files, progress, disable=None if progress else True, leave=False):
        chunk = read_chunk(source_images / Path(name).name, sha256)
        here = torch.tensor([i in row_of for i in chunk.image_ids.tolist()])
        if not here.any():
            continue
        rows = torch.tensor([row_of[i] for i in chunk.image_ids[here.numpy()].tolist()])
        seen[rows.numpy()] = True
        for branch in source.branches:
            adv_images = torch.from_numpy(chunk.images[Key(attack, "final", branch, branch)])[here]
            for scorer, score in scores.items():
                batch = rows_on_device(score, adv_images, labels[rows], torch.arange(len(rows)))
                found = classify_all(score, *batch, image_ids[rows]).correct.cpu().numpy()
                correct[keys[branch, scorer]][rows.numpy()] = found
    if not seen.all():
        raise RecordError(
            f"{source_images} lacks {int((~seen).sum())} of {len(seen)} test images; evaluate the "
            "runs together"
        )
    return [Verdict(*key, correct=bits) for key, bits in correct.items()]

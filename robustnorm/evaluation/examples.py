"""A few images before and after an attack, for a record."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from robustnorm.evaluation.chunks import rows_on_device
from robustnorm.evaluation.search import Precision, Search, branches, climb
from robustnorm.records.parts import Example
from robustnorm.records.record import Record, Verdict
from robustnorm.system.precision import exact_float32


@torch.no_grad()
def make_examples(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    verdicts: Sequence[Verdict],
    *,
    image_ids: Tensor,
    search: Search,
    precision: Precision = "fp32",
    count: int = 8,
) -> list[Example]:
    """Returns for each branch a few images that it classifies correctly before the attack.

    Takes the first such image of each class, then the second, and so on. They are attacked as in
    the evaluation, with the largest number of steps.

    Args:
        model: In evaluation mode.
        images: (N, C, H, W), uint8 or floating point in [0, 1], grey or RGB.
        labels: int64 (N,).
        verdicts: Verdicts of ``evaluate`` on the same images; those on clean images are used.
        image_ids: int64 (N,), indices of the images in their data set.
        search: Settings of the attack.
        precision: Precision of the attack's gradients.
        count: Number of images per branch, if there are as many.
    """
    examples = []
    for branch in branches(model, precision):
        (clean,) = (
            v.correct for v in verdicts if v.attack == "none" and v.score_branch == branch.name
        )
        rows = _spread(labels.cpu().numpy(), clean, image_ids.cpu().numpy())[:count]
        if not len(rows):
            continue
        chosen, classes = rows_on_device(branch.score, images, labels, rows)
        adv_images = climb(branch, chosen, classes, image_ids.cpu()[rows], search)
        with exact_float32():
            before, after = (branch.score(x).argmax(1).tolist() for x in (chosen, adv_images))
        for row, one, other, image, adv_image in zip(
            rows.tolist(), before, after, chosen, adv_images, strict=True
        ):
            pictures = encode_png(image), encode_png(adv_image)
            examples.append(Example(int(image_ids[row]), branch.name, one, other, *pictures))
    return examples


def count_examples(record: Record, count: int) -> int:
    """Returns how many examples ``make_examples`` makes for a record."""
    right = (record.find("none", "final", name, name).correct for name in record.branches)
    return sum(min(count, int(correct.sum())) for correct in right)


def _spread(
    labels: NDArray[np.int64], correct: NDArray[np.bool_], image_ids: NDArray[np.int64]
) -> Tensor:
    """Returns the rows of the first correct image of each class, then of the second, and so on."""
    seen: dict[int, int] = {}
    ranked = []
    for row in np.argsort(image_ids):
        if correct[row]:
            label = int(labels[row])
            ranked.append((seen.setdefault(label, 0), label, int(row)))
            seen[label] += 1
    rows = [row for *_, row in sorted(ranked)]
    return torch.tensor(rows, dtype=torch.int64, device="cpu")


def encode_png(image: Tensor) -> str:
    """Encodes an image as a PNG file in base64.

    Args:
        image: (C, H, W) in [0, 1], grey or RGB; rounded to 8 bits.
    """
    values = (image * 255).round().to(torch.uint8).permute(1, 2, 0).cpu().numpy()
    file = io.BytesIO()
    Image.fromarray(values[..., 0] if values.shape[2] == 1 else values).save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()

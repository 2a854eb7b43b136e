"""Logit margins, which determine the scale of a cross-entropy attack's gradients."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn

from robustnorm.attacks.contract import unchanged, undisturbed
from robustnorm.attacks.losses import find_loss
from robustnorm.evaluation.chunks import CHUNK, rows_of, rows_on_device
from robustnorm.evaluation.search import scorers
from robustnorm.system.memory import in_smaller_batches
from robustnorm.system.precision import exact_float32


def median_margins(
    model: nn.Module, images: Tensor, labels: Tensor, *, serving: bool = False
) -> dict[str, float]:
    """Returns the median over the clean images of the label's logit minus the largest other logit.

    With large margins the cross-entropy saturates and its gradients vanish. If two networks differ
    in their margins, a difference in their robust accuracy under PGD on the cross-entropy may
    therefore be an effect of scale.

    Args:
        model: In evaluation mode.
        images: (N, C, H, W), uint8 or floating point in [0, 1].
        labels: int64 (N,).
        serving: Also for each serving rule over all branches.

    Returns:
        Median margin, in logits, by branch or rule; of an even number of images the lower of the
        two in the middle.
    """
    margin = find_loss("margin")

    def of(score: nn.Module, size: int) -> float:
        parts = torch.split(rows_of(len(images)), size)
        batches = (rows_on_device(score, images, labels, rows) for rows in parts)
        values = [-margin(score(some), classes, None) for some, classes in batches]
        return float(torch.cat(values).median())

    with undisturbed(), unchanged(model), torch.no_grad(), exact_float32():
        return {
            name: in_smaller_batches(partial(of, score), CHUNK)
            for name, score in scorers(model, serving=serving).items()
        }

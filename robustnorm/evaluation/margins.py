"""Logit margins, which determine the scale of a cross-entropy attack's gradients."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn

from robustnorm.attacks.contract import undisturbed
from robustnorm.attacks.losses import find_loss
from robustnorm.evaluation.chunks import CHUNK, place
from robustnorm.evaluation.search import scorers
from robustnorm.system.memory import in_smaller_batches


def median_margins(
    model: nn.Module, images: Tensor, labels: Tensor, *, serving: bool = False
) -> dict[str, float]:
    """Returns the median over all clean images of the label's logit minus the largest other one.

    With a small margin the cross-entropy saturates late; with a large one its gradients vanish. So
    if networks differ in their margins, a difference in robust accuracy under PGD on the
    cross-entropy may be an effect of scale.

    Args:
        model: In evaluation mode.
        images: (N, C, H, W), uint8 or floating point in [0, 1].
        labels: int64 (N,).
        serving: Also for each serving rule over all branches.

    Returns:
        Median margin, in logits, by branch or rule.
    """
    margin = find_loss("margin")

    def of(score: nn.Module, size: int) -> float:
        parts = torch.split(torch.arange(len(images)), size)
        placed = (place(score, images, labels, rows) for rows in parts)
        return float(torch.cat([-margin(score(some), own, None) for some, own in placed]).median())

    with undisturbed(), torch.no_grad():
        return {
            name: in_smaller_batches(partial(of, score), CHUNK)
            for name, score in scorers(model, serving=serving).items()
        }

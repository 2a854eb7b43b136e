"""Losses for gradient attacks: one value per image, computed from its logits."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from robustnorm.system.registry import unknown

# (logits (N, K), labels (N,), targets (N,) or None) to losses (N,).
Loss = Callable[[Tensor, Tensor, Tensor | None], Tensor]

# Keeps the quotient finite when all logits are equal; the value in the authors' code.
_TINY = 1e-12


def find_loss(name: str) -> Loss:
    """Returns the loss of that name, a key of ``LOSSES``; larger is closer to the attack's goal.

    With y the label, t the target and z_(1) >= z_(2) >= ... the sorted logits:

    ========  ===============================  ===================================================
    name      away from the label              towards the target
    ========  ===============================  ===================================================
    ce        cross-entropy of y               minus the cross-entropy of t
    margin    max_{j != y} z_j - z_y           z_t - max_{j != t} z_j
    dlr       margin / (z_(1) - z_(3))         (z_t - z_y) / (z_(1) - (z_(3) + z_(4)) / 2)
    ========  ===============================  ===================================================

    The margin is Carlini and Wagner's without its bound. DLR is invariant to scaling the logits, a
    common cause of gradient masking; it needs 3 classes, and 4 with a target.

    Raises:
        ValueError: On an unknown name; the message lists the known names. The loss itself raises it
            when there are too few classes.

    References:
        Carlini & Wagner, Towards Evaluating the Robustness of Neural Networks, 2017,
        arXiv:1608.04644, f_6; Croce & Hein, ICML 2020, arXiv:2003.01690.
    """
    if name not in LOSSES:
        raise ValueError(unknown("loss", name, list(LOSSES)))
    return LOSSES[name]


def _cross_entropy(logits: Tensor, labels: Tensor, targets: Tensor | None) -> Tensor:
    if targets is None:
        return F.cross_entropy(logits, labels, reduction="none")
    return -F.cross_entropy(logits, targets, reduction="none")


def _margin(logits: Tensor, labels: Tensor, targets: Tensor | None) -> Tensor:
    if targets is None:
        return lead(logits, labels)
    return -lead(logits, targets)


def _dlr(logits: Tensor, labels: Tensor, targets: Tensor | None) -> Tensor:
    least = 3 if targets is None else 4
    if logits.shape[1] < least:
        raise ValueError(
            f"the loss 'dlr' {'' if targets is None else 'with targets '}needs at least {least} "
            f"classes, but the model has {logits.shape[1]}; use loss='margin' or 'ce'"
        )
    top = logits.topk(least, dim=1).values
    if targets is None:
        return lead(logits, labels) / (top[:, 0] - top[:, 2] + _TINY)
    towards = logit_of(logits, targets) - logit_of(logits, labels)
    return towards / (top[:, 0] - (top[:, 2] + top[:, 3]) / 2 + _TINY)


def logit_of(logits: Tensor, classes: Tensor) -> Tensor:
    """Returns the logit of one class for each image, (N,)."""
    return logits.gather(1, classes[:, None])[:, 0]


def lead(logits: Tensor, classes: Tensor) -> Tensor:
    """Returns how far the largest other logit is above that of a class, (N,)."""
    others = logits.scatter(1, classes[:, None], -torch.inf)
    return others.max(1).values - logit_of(logits, classes)


LOSSES: dict[str, Loss] = {"ce": _cross_entropy, "margin": _margin, "dlr": _dlr}

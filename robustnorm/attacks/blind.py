"""A search without gradients, for images on which they lead nowhere."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from robustnorm.attacks.asked import Model
from robustnorm.attacks.losses import lead
from robustnorm.attacks.threat_model import ThreatModel

# Part of the image that a square covers at first, and after which of 10,000 queries it halves.
_SHARE, _HALVED = 0.8, (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)
# What a square weighs beside the rest; without effect in an Linf ball, whose pixels move alike.
_WEIGHTS = (1.0, 2.0, 4.0)


@torch.no_grad()
def blind_search(
    model: Model, images: Tensor, labels: Tensor, *, epsilon: float, ball: ThreatModel, queries: int
) -> Tensor:
    """Tries squares of one color, ever smaller ones, and keeps those that bring a wrong class near.

    The squares are the same for every image and every call: an image's result follows from itself
    alone. It leaves the search when it is misclassified.

    Args:
        model: Images to logits.
        images: (N, ...), floating point in [0, 1].
        labels: int64 (N,).
        epsilon: Radius of the ball.
        ball: The threat model.
        queries: Forward passes of an image at most.

    Returns:
        The points of the ball on which a wrong class came nearest to the label.

    References:
        Andriushchenko et al., Square Attack, ECCV 2020, arXiv:1912.00049, whose stripes, sizes and
        acceptance these are. Here squares are drawn once for all images, and in an L2 ball the
        whole pattern is scaled to the radius.
    """
    best = images.clone()
    if images.dim() != 4:
        images = images.reshape(len(images), 1, 1, -1)
    generator = torch.Generator().manual_seed(0)
    _, channels, height, width = images.shape
    pattern = _signs((1, channels, 1, width), generator).expand(1, -1, height, -1).to(images)
    patterns = pattern.repeat(len(images), 1, 1, 1)
    leads = torch.full_like(labels, -torch.inf, dtype=images.dtype)
    rows = torch.arange(len(images), device=labels.device)
    for query in range(queries):
        if not len(rows):
            break
        tried = patterns[rows]
        if query:
            halved = sum(10_000 * query > at * queries for at in _HALVED)
            side = max(1, round(math.sqrt(_SHARE * 0.5**halved * height * width)))
            tall, wide = min(side, height), min(side, width)
            top, left = (_below(most + 1, generator) for most in (height - tall, width - wide))
            weight = _WEIGHTS[_below(len(_WEIGHTS), generator)]
            color = weight * _signs((1, channels, 1, 1), generator).to(images)
            tried[:, :, top : top + tall, left : left + wide] = color
        moved = images[rows] + ball.ascend(tried, epsilon)
        adv_images = ball.project(moved, images[rows], epsilon)
        found = adv_images.reshape(-1, *best.shape[1:])
        logits = model(found)
        now = lead(logits, labels[rows])
        better = now > leads[rows]
        taken = rows[better]
        patterns[taken], leads[taken], best[taken] = (
            tried[better],
            now[better].to(leads),
            found[better],
        )
        rows = rows[logits.argmax(1) == labels[rows]]
    return best


def _signs(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    return 2.0 * torch.randint(2, shape, generator=generator) - 1


def _below(most: int, generator: torch.Generator) -> int:
    return int(torch.randint(most, (), generator=generator))

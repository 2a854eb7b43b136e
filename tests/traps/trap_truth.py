"""The true robust accuracy of networks that are simple enough: by a formula, or by trying all.

Nothing here uses the package or torch's gradients: NumPy in float64, or every point of a grid.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def linear_radii(
    weight: Array, bias: Array, images: Array, labels: NDArray[np.int64], norm: str
) -> Array:
    """Returns the distance at which a linear network's answer turns wrong, (N,), without a box.

    To reach class j the images move along w_j - w_y, whose dual norm says how far.

    Args:
        weight: (K, D).
        bias: (K,).
        images: (N, D).
        labels: (N,).
        norm: "linf" or "l2".
    """
    order = {"linf": 1, "l2": 2}[norm]
    logits = images @ weight.T + bias
    radii = np.full((len(images), len(weight)), np.inf)
    for i, label in enumerate(labels):
        for j in range(len(weight)):
            if j != label:
                lead = logits[i, label] - logits[i, j]
                radii[i, j] = lead / np.linalg.norm(weight[j] - weight[label], order)
    return radii.min(1)


def linear_in_box(
    weight: Array, bias: Array, images: Array, labels: NDArray[np.int64], epsilon: float
) -> float:
    """Returns the robust accuracy of a linear network in Linf, each pixel kept in [0, 1]."""
    robust = []
    low, high = np.clip(images - epsilon, 0, 1), np.clip(images + epsilon, 0, 1)
    for i, label in enumerate(labels):
        leads = []
        for j in set(range(len(weight))) - {int(label)}:
            towards = weight[j] - weight[label]
            best = np.where(towards > 0, high[i], low[i])
            leads.append(best @ towards + bias[j] - bias[label])
        robust.append(max(leads) < 0)
    return float(np.mean(robust))


def by_grid(
    answer: Callable[[Array], NDArray[np.int64]],
    images: Array,
    labels: NDArray[np.int64],
    epsilon: float,
    points: int = 121,
) -> float:
    """Returns the robust accuracy in Linf by asking the network at every point of a grid.

    Args:
        answer: Images (N, 2) to classes (N,).
        images: Of two pixels, (N, 2).
        labels: (N,).
        epsilon: Radius.
        points: Of the grid, along each pixel.
    """
    robust = []
    for image, label in zip(images, labels, strict=True):
        axes = [
            np.linspace(max(0, pixel - epsilon), min(1, pixel + epsilon), points) for pixel in image
        ]
        grid = np.stack(np.meshgrid(*axes), -1).reshape(-1, len(axes))
        robust.append(bool((answer(np.concatenate([image[None], grid])) == label).all()))
    return float(np.mean(robust))


def widest_gap(radii: Array) -> float:
    """Returns a radius far from every one of these: the middle of the widest gap between them."""
    sound = np.sort(radii[radii > 0])
    middle = slice(len(sound) // 4, max(len(sound) // 4 + 2, 3 * len(sound) // 4))
    low, high = max(
        itertools.pairwise(sound[middle]), key=lambda pair: (pair[1] - pair[0]) / pair[1]
    )
    return float((low + high) / 2)

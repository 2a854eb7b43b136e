"""What an accuracy on n images says of the accuracy on all images."""

from __future__ import annotations

import math
from statistics import NormalDist
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


class Interval(NamedTuple):
    """Limits of a confidence interval, fractions."""

    low: float
    high: float


def wilson(correct: float, n: int, confidence: float = 0.95) -> Interval:
    """Returns Wilson's score interval of an accuracy.

    Args:
        correct: Images classified correctly; a mean over several models need not be whole.
        n: Images.
        confidence: Of the interval, in (0, 1).

    Raises:
        ValueError: Unless 0 <= correct <= n and n >= 1.

    References:
        Wilson, Probable Inference, the Law of Succession, and Statistical Inference, 1927.

    Examples:
        >>> low, high = wilson(9450, 10_000)
        >>> round(100 * (high - low) / 2, 2)
        0.45
    """
    if n < 1 or not 0 <= correct <= n:
        raise ValueError(f"correct must lie in 0..n and n be at least 1, got {correct} of {n}")
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    fraction = correct / n
    scale = 1 + z * z / n
    center = (fraction + z * z / (2 * n)) / scale
    half = z * math.sqrt(fraction * (1 - fraction) / n + z * z / (4 * n * n)) / scale
    low = 0.0 if correct == 0 else center - half
    high = 1.0 if correct == n else center + half
    return Interval(low, high)


def mcnemar(first: NDArray[np.bool_], second: NDArray[np.bool_]) -> float:
    """Returns the two-sided p-value that two models are equally accurate, from the same images.

    The exact test: of the images on which the verdicts differ, each model wins half.

    Args:
        first: Verdicts of one model, (n,).
        second: Verdicts of the other on the same images, (n,).

    Raises:
        ValueError: When the shapes differ.

    References:
        McNemar, Psychometrika 12, 1947.
    """
    if first.shape != second.shape:
        raise ValueError(
            f"both need verdicts on the same images, got {first.shape} and {second.shape}"
        )
    wins, losses = int((first & ~second).sum()), int((second & ~first).sum())
    n = wins + losses
    # Whole numbers: exact, and without overflow.
    tail = sum(math.comb(n, k) for k in range(min(wins, losses) + 1))
    return min(1.0, 2 * tail / (1 << n))

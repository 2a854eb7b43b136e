"""Confidence intervals and significance tests for accuracies."""

from __future__ import annotations

import itertools
import math
import string
from collections.abc import Callable, Sequence
from typing import NamedTuple

import networkx
import numpy as np
from numpy.typing import NDArray
from scipy.stats import binomtest, norm, permutation_test, t


class Interval(NamedTuple):
    """Limits of a confidence interval, as fractions."""

    low: float
    high: float


def wilson(correct: float, n: int, confidence: float = 0.95) -> Interval:
    """Returns Wilson's score interval for an accuracy.

    Args:
        correct: Number of images classified correctly; may be a mean over several models.
        n: Number of images.
        confidence: Confidence level, in (0, 1).

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
    z = float(norm.isf((1 - confidence) / 2))
    fraction = correct / n
    scale = 1 + z * z / n
    center = (fraction + z * z / (2 * n)) / scale
    half = z * math.sqrt(fraction * (1 - fraction) / n + z * z / (4 * n * n)) / scale
    low = 0.0 if correct == 0 else center - half
    high = 1.0 if correct == n else center + half
    return Interval(low, high)


def student(values: Sequence[float], confidence: float = 0.95) -> Interval | None:
    """Returns Student's interval for the mean of independent values; None for fewer than two.

    Args:
        values: For example, one per seed.
        confidence: Confidence level, in (0, 1).

    Examples:
        >>> low, high = student([1.0, 2.0, 3.0])
        >>> round(low, 3), round(high, 3)
        (-0.484, 4.484)
    """
    n = len(values)
    if n < 2:
        return None
    half = float(t.isf((1 - confidence) / 2, n - 1) * np.std(values, ddof=1) / math.sqrt(n))
    center = float(np.mean(values))
    return Interval(center - half, center + half)


def sign_flip(differences: Sequence[float]) -> float | None:
    """Returns the two-sided p-value of the sign-flip test; None for fewer than two.

    The null hypothesis is that each paired difference might equally well have the other sign;
    nothing is assumed about their distribution. With n differences no p-value is below 2 / 2**n.
    The test is exact up to 20 differences; of more, it draws 2**20 signs, the same in each call.

    Args:
        differences: One per pair.

    References:
        Fisher, The Design of Experiments, 1935.

    Examples:
        >>> sign_flip([1.0, 2.0, 3.0])  # one of eight, on either side
        0.25
    """
    if len(differences) < 2:
        return None
    found = permutation_test(
        (differences,), np.mean, permutation_type="samples", n_resamples=2**20, batch=10_000, rng=0
    )
    return float(found.pvalue)


class Difference(NamedTuple):
    """A difference of two accuracies, tested.

    Attributes:
        interval: 95 % interval; None without spread over seeds.
        p: Two-sided p-value; 1 without spread over seeds.
    """

    interval: Interval | None
    p: float


def crossed(correct: NDArray[np.bool_], pairs: Sequence[tuple[int, int]]) -> list[Difference]:
    """Tests differences of accuracy between models; seeds and images are both samples.

    The variance of a difference has two parts. That over seeds is of the model accuracy = model +
    seed + noise, with one variance of noise for all models: a two-way analysis of variance, or a
    mixed model with random seeds. That over images is of each image's difference, averaged over
    seeds. Their sum, with Satterthwaite's degrees of freedom, gives Clark's min F'. It counts the
    noise of one seed on one image twice, so it errs towards no difference.

    Args:
        correct: Verdicts, bool (models, seeds, images); at least two models and two seeds.
        pairs: Indices of the models to compare.

    References:
        Clark, The Language-as-Fixed-Effect Fallacy, Journal of Verbal Learning and Verbal Behavior
        12, 1973.
    """
    models, seeds, images = correct.shape
    counts = correct.sum(2)
    # Residuals times models * seeds: whole numbers, so that no spread is exactly zero.
    residuals = (
        models * seeds * counts
        - models * counts.sum(1, keepdims=True)
        - seeds * counts.sum(0)
        + counts.sum()
    )
    freedom = (models - 1) * (seeds - 1)
    over_seeds = 2 * float((residuals**2).sum()) / (models * seeds * images) ** 2 / freedom / seeds
    found = []
    for i, j in pairs:
        if over_seeds == 0 or images < 2:
            found.append(Difference(None, 1.0))
            continue
        differences = (correct[i].sum(0) - correct[j].sum(0)) / seeds
        over_images = float(differences.var(ddof=1)) / images
        variance = over_seeds + over_images
        degrees = variance**2 / (over_seeds**2 / freedom + over_images**2 / (images - 1))
        center, error = float(differences.mean()), math.sqrt(variance)
        half = float(t.isf(0.025, degrees)) * error
        p = 2 * float(t.sf(abs(center) / error, degrees))
        found.append(Difference(Interval(center - half, center + half), p))
    return found


def mcnemar(first: NDArray[np.bool_], second: NDArray[np.bool_]) -> float:
    """Returns the two-sided p-value of the exact McNemar test for equal accuracy of two models.

    Under the null hypothesis each model wins half of the images on which their verdicts differ.

    Args:
        first: Verdicts of one model, bool (n,).
        second: Verdicts of the other model on the same images, bool (n,).

    Raises:
        ValueError: When the shapes differ.

    References:
        McNemar, Psychometrika 12, 1947.
    """
    if first.shape != second.shape:
        raise ValueError(
            "both models need verdicts on the same images, got shapes "
            f"{first.shape} and {second.shape}"
        )
    wins, losses = int((first & ~second).sum()), int((second & ~first).sum())
    return float(binomtest(wins, wins + losses).pvalue) if wins + losses else 1.0


def holm(p_values: Sequence[float]) -> list[float]:
    """Returns p-values adjusted for multiple testing by Holm's method, in the order given.

    Rejecting where an adjusted value is at most 0.05 keeps the probability of any false rejection
    at 5 % or less, whether or not the tests are independent. With the p-values in ascending order,
    the i-th of m is multiplied by m - i + 1; it is then raised to the previous one if that is
    larger, and capped at 1.

    Args:
        p_values: p-values of one family of tests, each in [0, 1].

    Raises:
        ValueError: On a value outside [0, 1].

    References:
        Holm, A Simple Sequentially Rejective Multiple Test Procedure, 1979.

    Examples:
        >>> holm([0.25, 0.125])
        [0.25, 0.25]
    """
    if not all(0 <= p <= 1 for p in p_values):
        raise ValueError(f"p-values must lie in [0, 1], got {list(p_values)}")
    adjusted = [0.0] * len(p_values)
    largest = 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = largest
    return adjusted


def letters(distinguishable: Callable[[int, int], bool], count: int) -> list[str]:
    """Returns a compact letter display: rows that share a letter are not distinguishable.

    Each letter marks a maximal set of rows that are pairwise indistinguishable. "z" is followed by
    "a1", "b1", and so on.

    Args:
        distinguishable: Whether rows i < j differ.
        count: Number of rows.

    References:
        Piepho, An Algorithm for a Letter-Based Representation of All-Pairwise Comparisons, 2004.

    Examples:
        >>> letters(lambda i, j: j - i > 1, 3)  # only neighbours are alike
        ['a', 'ab', 'b']
    """
    alike = networkx.Graph()
    alike.add_nodes_from(range(count))
    alike.add_edges_from(
        pair for pair in itertools.combinations(range(count), 2) if not distinguishable(*pair)
    )
    marks = [""] * count
    for number, members in enumerate(sorted(sorted(c) for c in networkx.find_cliques(alike))):
        turn, letter = divmod(number, len(string.ascii_lowercase))
        for row in members:
            marks[row] += f"{string.ascii_lowercase[letter]}{turn or ''}"
    return marks

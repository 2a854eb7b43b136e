"""Rules that turn counts of images into verdicts, each with the figure behind it.

Of a hundred images, a single one already exceeds a limit of 0.2 %. A count therefore counts as
above a limit only if chance would produce it with a probability below ``LEVEL`` at that limit. For
many images the threshold approaches the limit itself.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from scipy.stats import binom
from torch import Tensor

# More than a dozen checks run on each branch: at 5 % each, sound branches would often be flagged.
LEVEL = 0.01


class Finding(NamedTuple):
    """Verdict, value, figure and n, as in ``Check``."""

    verdict: str
    value: float
    figure: str
    n: int


def allowed(n: int, limit: float) -> int:
    """Returns how many of n images may fail under a limit, which is a fraction in (0, 1).

    Examples:
        >>> allowed(100, 0.002), allowed(1000, 0.002), allowed(10_000, 0.002)
        (2, 6, 31)
    """
    return max(math.floor(limit * n), int(binom.isf(LEVEL, n, limit)))


def none_may(failing: Tensor, what: str) -> Finding:
    """Unreliable if any image fails; ``failing`` is bool (n,), as in the functions below."""
    return _share("unreliable" if failing.any() else "reliable", failing, f"{what}; none may be")


def rare(failing: Tensor, what: str) -> Finding:
    """Warns if any image fails, unreliable beyond 1 %."""
    most = allowed(len(failing), 0.01)
    verdict = _grade(int(failing.sum()), warns=0, fails=most)
    return _share(verdict, failing, f"{what}; none expected, above {_percent(most, failing)} fails")


def at_most(failing: Tensor, limit: float, what: str) -> Finding:
    """Unreliable if more images fail than the limit and chance allow."""
    most = allowed(len(failing), limit)
    verdict = _grade(int(failing.sum()), warns=most, fails=most)
    text = f"{what}; limit {100 * limit:.3g}, on {len(failing)} images {_percent(most, failing)}"
    return _share(verdict, failing, text)


def converged(failing: Tensor, what: str) -> Finding:
    """Warns if a stronger attack lowers accuracy by more than 1 point; unreliable beyond 5 points.

    The aim is half a point; a warning also requires that chance does not explain the difference.
    """
    n = len(failing)
    warns, fails = max(allowed(n, 0.005), math.floor(0.01 * n)), allowed(n, 0.05)
    verdict = _grade(int(failing.sum()), warns, fails)
    text = f"{what}; aim 0.5, above {_percent(warns, failing)} warns"
    return _share(verdict, failing, f"{text}, above {_percent(fails, failing)} fails")


def never_above(pairs: Sequence[tuple[Tensor, Tensor]], what: str) -> Finding:
    """Unreliable if in any pair the first accuracy exceeds the second beyond chance.

    Uses the exact one-sided McNemar test on the same images.

    Args:
        pairs: Pairs of verdicts, bool (n,) each.
        what: Description of the excess.
    """
    excesses, beyond = [], False
    for first, second in pairs:
        more, fewer = int((first & ~second).sum()), int((second & ~first).sum())
        excesses.append(100 * (more - fewer) / len(first))
        beyond |= more > fewer and binom.sf(more - 1, more + fewer, 0.5) < LEVEL
    verdict = "unreliable" if beyond else "reliable"
    figure = f"points, {what}; more than 0 beyond chance fails (exact McNemar test)"
    return Finding(verdict, max(excesses), figure, len(pairs[0][0]))


def not_below(correct: Tensor, expected: float, shortfall: float, what: str) -> Finding:
    """Unreliable if an accuracy is below the expected one by more than a shortfall and chance.

    Args:
        correct: bool (n,).
        expected: Accuracy, a fraction.
        shortfall: Accepted loss.
        what: Description of the counted images.
    """
    n, count = len(correct), int(correct.sum())
    least = max(0.0, expected - shortfall)
    beyond = count < least * n and binom.cdf(count, n, least) < LEVEL
    figure = f"% of images {what}; {100 * expected:.3g} recorded, below {100 * least:.3g} fails"
    return Finding("unreliable" if beyond else "reliable", 100 * count / n, figure, n)


def small(values: Tensor, limit: float, what: str) -> Finding:
    """Unreliable if the largest value, (n,), is above the limit."""
    worst = float(values.max())
    verdict = "reliable" if worst <= limit else "unreliable"
    return Finding(verdict, worst, f"{what}; limit {limit:.1e}", len(values))


def _grade(count: int, warns: int, fails: int) -> str:
    return "unreliable" if count > fails else "warn" if count > warns else "reliable"


def _share(verdict: str, failing: Tensor, figure: str) -> Finding:
    n = len(failing)
    return Finding(verdict, 100 * int(torch.count_nonzero(failing)) / n, f"% of images {figure}", n)


def _percent(count: int, failing: Tensor) -> str:
    return f"{100 * count / len(failing):.3g}"

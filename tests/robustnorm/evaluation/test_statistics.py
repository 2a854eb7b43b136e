import numpy as np
import pytest
from scipy.stats import binomtest

from robustnorm.evaluation.statistics import mcnemar, wilson


@pytest.mark.parametrize("confidence", [0.9, 0.95, 0.99])
@pytest.mark.parametrize(
    ("correct", "n"), [(0, 1), (1, 1), (0, 500), (500, 500), (37, 100), (4314, 10_000)]
)
def test_wilson_equals_scipy(correct, n, confidence):
    expected = binomtest(correct, n).proportion_ci(confidence, method="wilson")
    # scipy clips the limits at 0 and 1 and takes its quantile from another series.
    assert wilson(correct, n, confidence) == pytest.approx(
        (expected.low, expected.high), rel=0, abs=1e-12
    )


@pytest.mark.parametrize(("percent", "half_width"), [(94.5, 0.45), (43.0, 0.97)])
def test_wilson_gives_the_half_widths_of_ten_thousand_images(percent, half_width):
    low, high = wilson(percent * 100, 10_000)
    assert 100 * (high - low) / 2 == pytest.approx(half_width, abs=0.005)  # as printed


@pytest.mark.parametrize(("correct", "n"), [(1, 0), (-1, 10), (11, 10)])
def test_wilson_refuses_impossible_counts(correct, n):
    with pytest.raises(ValueError, match=rf"got {correct} of {n}"):
        wilson(correct, n)


def verdicts(wins, losses, agreed=7):
    first = np.array([True] * wins + [False] * losses + [True] * agreed)
    second = np.array([False] * wins + [True] * losses + [True] * agreed)
    return first, second


@pytest.mark.parametrize(
    ("wins", "losses"), [(0, 0), (1, 0), (5, 5), (3, 12), (12, 3), (400, 520), (4900, 5100)]
)
def test_mcnemar_equals_scipy(wins, losses):
    expected = binomtest(wins, wins + losses).pvalue if wins + losses else 1.0
    # scipy sums terms in floating point.
    assert mcnemar(*verdicts(wins, losses)) == pytest.approx(expected, rel=1e-9)


def test_mcnemar_does_not_depend_on_agreement():
    assert mcnemar(*verdicts(3, 12, agreed=0)) == mcnemar(*verdicts(3, 12, agreed=1000))


def test_mcnemar_refuses_different_images():
    with pytest.raises(ValueError, match="same images"):
        mcnemar(np.ones(3, bool), np.ones(4, bool))

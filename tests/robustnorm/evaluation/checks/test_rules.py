import pytest
import torch
from scipy.stats import binom, binomtest

from robustnorm.evaluation.checks.rules import (
    LEVEL,
    allowed,
    at_most,
    converged,
    never_above,
    none_may,
    rare,
    small,
)


def failing(count, n):
    return torch.arange(n) < count


@pytest.mark.parametrize("n", [20, 100, 1000, 10_000])
@pytest.mark.parametrize("limit", [0.002, 0.005, 0.01, 0.05, 0.1])
def test_allowed_is_the_last_count_that_the_limit_or_chance_explains(n, limit):
    most = allowed(n, limit)
    assert most <= limit * n or binom.sf(most - 1, n, limit) >= LEVEL
    assert most + 1 > limit * n
    assert binom.sf(most, n, limit) < LEVEL


def test_allowed_is_every_image_where_no_count_is_beyond_chance():
    assert allowed(1, 0.1) == 1


def test_none_may_fails_on_one_image():
    assert none_may(failing(0, 50), "")[:2] == ("reliable", 0)
    assert none_may(failing(1, 50), "")[:2] == ("unreliable", 2)


@pytest.mark.parametrize(
    ("count", "verdict"), [(0, "reliable"), (1, "warn"), (18, "warn"), (19, "unreliable")]
)
def test_rare_warns_on_one_image_and_fails_beyond_one_percent(count, verdict):
    assert binom.sf(17, 1000, 0.01) >= LEVEL > binom.sf(18, 1000, 0.01)
    assert rare(failing(count, 1000), "").verdict == verdict


@pytest.mark.parametrize(("count", "verdict"), [(6, "reliable"), (7, "unreliable")])
def test_at_most_fails_beyond_limit_and_chance(count, verdict):
    assert binom.sf(5, 1000, 0.002) >= LEVEL > binom.sf(6, 1000, 0.002)
    found = at_most(failing(count, 1000), 0.002, "what")
    assert found == (verdict, count / 10, found.figure, 1000)
    assert "what" in found.figure
    assert "0.6" in found.figure  # the percentage that fails beyond


@pytest.mark.parametrize(
    ("n", "count", "verdict"),
    [
        (10_000, 50, "reliable"),  # 0.5 points
        (10_000, 100, "reliable"),
        (10_000, 101, "warn"),  # above 1 point: chance does not make that of 0.5
        (10_000, 500, "warn"),
        (10_000, 600, "unreliable"),
        (100, 3, "reliable"),  # on 100 images chance makes 3 of 0.5 %
        (100, 4, "warn"),
        (100, 12, "unreliable"),
    ],
)
def test_converged_warns_above_one_point(n, count, verdict):
    assert converged(failing(count, n), "").verdict == verdict


@pytest.mark.parametrize(("more", "fewer"), [(6, 0), (7, 0), (12, 3), (10, 2), (3, 20), (0, 0)])
def test_never_above_is_the_exact_one_sided_mcnemar_test(more, fewer):
    first, second = torch.zeros(100, dtype=torch.bool), torch.zeros(100, dtype=torch.bool)
    first[:more] = second[more : more + fewer] = True
    first[50:] = second[50:] = True
    found = never_above([(second, second), (first, second)], "")
    p = binomtest(more, more + fewer, alternative="greater").pvalue if more + fewer else 1
    assert found.verdict == ("unreliable" if p < LEVEL else "reliable")
    assert found.value == max(0, more - fewer)


def test_small_looks_at_the_largest_value():
    values = torch.tensor([0.0, 3e-5, 1e-5])
    assert small(values, 3.1e-5, "").verdict == "reliable"
    assert small(values, 2.9e-5, "")[:2] == ("unreliable", pytest.approx(3e-5))

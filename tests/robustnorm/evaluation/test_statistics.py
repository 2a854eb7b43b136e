import itertools
import math
from fractions import Fraction
from statistics import NormalDist

import numpy as np
import pytest
from scipy import stats

from robustnorm.evaluation.statistics import (
    crossed,
    holm,
    letters,
    mcnemar,
    sign_flip,
    student,
    wilson,
)


@pytest.mark.parametrize("confidence", [0.9, 0.95, 0.99])
@pytest.mark.parametrize(
    ("correct", "n"), [(0, 1), (1, 1), (0, 500), (500, 500), (37, 100), (4314, 10_000)]
)
def test_wilson_s_limits_solve_the_equation_that_defines_them(correct, n, confidence):
    """|p - fraction| = z sqrt(p (1 - p) / n) at both limits, with the standard library's z."""
    z, fraction = NormalDist().inv_cdf((1 + confidence) / 2), correct / n
    low, high = wilson(correct, n, confidence)
    assert low <= fraction <= high
    for limit in (low, high):
        # Quadratic in p: the error of a limit enters once where the root is simple.
        residual = (limit - fraction) ** 2 - z * z * limit * (1 - limit) / n
        assert residual == pytest.approx(0, abs=1e-14)
    assert high - low > 1e-3


def test_wilson_gives_a_published_interval():
    """Newcombe, Statistics in Medicine 17, 1998, Table I, method 3: 81 of 263 and 1 of 29."""
    assert wilson(81, 263) == pytest.approx((0.2553, 0.3662), abs=5e-5)  # four digits printed
    assert wilson(1, 29) == pytest.approx((0.0061, 0.1718), abs=5e-5)


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
def test_mcnemar_equals_the_sum_in_whole_numbers(wins, losses):
    n = wins + losses
    tail = term = 1
    for k in range(min(wins, losses)):
        term = term * (n - k) // (k + 1)  # n over k + 1
        tail += term
    expected = min(Fraction(1), Fraction(2 * tail, 2**n))
    # The tail in floating point, to nine digits.
    assert mcnemar(*verdicts(wins, losses)) == pytest.approx(float(expected), rel=1e-9)


def test_mcnemar_does_not_depend_on_agreement():
    assert mcnemar(*verdicts(3, 12, agreed=0)) == mcnemar(*verdicts(3, 12, agreed=1000))


def test_mcnemar_refuses_different_images():
    with pytest.raises(ValueError, match="same images"):
        mcnemar(np.ones(3, bool), np.ones(4, bool))


def test_holm_gives_values_computed_by_hand():
    """0.005 x 4, 0.01 x 3, 0.03 x 2, and 0.04 x 1, which may not fall below the one before."""
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02], rel=1e-15)
    assert holm([0.6, 0.7]) == [1.0, 1.0]
    assert holm([]) == []


def test_holm_rejects_what_the_step_down_procedure_rejects():
    rng = np.random.default_rng(0)
    for _ in range(50):
        p_values = (rng.random(7) ** 3).tolist()
        rejected = set()
        for step, place in enumerate(np.argsort(p_values)):  # as Holm states it
            if p_values[place] > 0.05 / (7 - step):
                break
            rejected.add(place)
        assert {i for i, p in enumerate(holm(p_values)) if p <= 0.05} == rejected


@pytest.mark.parametrize("value", [-0.1, 1.1, math.nan])
def test_holm_refuses_what_is_no_probability(value):
    with pytest.raises(ValueError, match=r"p-values must lie in \[0, 1\], got"):
        holm([0.5, value])


def test_letters_are_shared_exactly_by_rows_that_are_alike():
    rng = np.random.default_rng(0)
    for count in range(1, 9):
        different = rng.random((count, count)) < 0.5
        marks = letters(lambda i, j, different=different: bool(different[i, j]), count)
        for i, j in itertools.combinations(range(count), 2):
            assert bool(set(marks[i]) & set(marks[j])) == (not different[i, j])
        assert all(marks)


@pytest.mark.parametrize(
    ("differ", "marks"),
    [
        (lambda i, j: True, ["a", "b", "c", "d"]),
        (lambda i, j: False, ["a", "a", "a", "a"]),
        (lambda i, j: j == 3, ["a", "a", "a", "b"]),
    ],
)
def test_letters_of_simple_cases(differ, marks):
    assert letters(differ, 4) == marks


def test_letters_go_on_after_z():
    marks = letters(lambda i, j: True, 30)
    assert marks[25:28] == ["z", "a1", "b1"]
    assert len(set(marks)) == 30


def test_student_s_interval_is_scipy_s():
    values = [0.2, 0.5, 0.3, 0.9]
    expected = stats.t.interval(0.9, 3, np.mean(values), stats.sem(values))
    assert student(values, 0.9) == pytest.approx(expected)
    assert student(values[:1]) is None


def test_sign_flip_counts_the_signs_that_are_as_extreme():
    rng = np.random.default_rng(0)
    for n in (2, 3, 6):
        differences = rng.normal(0.5, 1, n)
        signs = np.array(list(itertools.product((1, -1), repeat=n)))
        sums = signs @ differences
        expected = 2 * min(
            (sums >= differences.sum() - 1e-12).mean(), (sums <= differences.sum() + 1e-12).mean()
        )
        assert sign_flip(differences.tolist()) == pytest.approx(min(1, expected))
    assert sign_flip([1.0]) is None
    assert sign_flip([0.0, 0.0]) == 1.0
    assert sign_flip([0.25] * 8) == 2 / 2**8


def test_sign_flip_of_many_differences_gives_the_same_p_each_time():
    differences = np.random.default_rng(0).normal(0.4, 1, 21).tolist()
    p = sign_flip(differences)
    assert p == sign_flip(differences)
    assert p == pytest.approx(stats.ttest_1samp(differences, 0).pvalue, rel=0.1)


def least_squares(accuracies, i, j):
    """Variance of a difference, and its degrees of freedom, from a fit with dummy variables."""
    models, seeds = accuracies.shape
    design = np.column_stack(
        [np.kron(np.eye(models), np.ones((seeds, 1))), np.tile(np.eye(seeds), (models, 1))]
    )[:, :-1]  # the last seed's column is the models' minus the other seeds'
    _, (residual,), rank, _ = np.linalg.lstsq(design, accuracies.ravel())
    freedom = models * seeds - rank
    contrast = np.eye(design.shape[1])[i] - np.eye(design.shape[1])[j]
    return residual / freedom * contrast @ np.linalg.inv(design.T @ design) @ contrast, freedom


@pytest.mark.parametrize(("models", "seeds"), [(2, 2), (4, 3)])
def test_crossed_is_clark_s_min_f(models, seeds):
    """min F' = F1 F2 / (F1 + F2), with F1 over seeds and F2 over images."""
    rng = np.random.default_rng(models)
    correct = rng.random((models, seeds, 200)) < rng.uniform(0.3, 0.6, (models, 1, 1))
    for i, j in itertools.combinations(range(models), 2):
        (found,) = crossed(correct, [(i, j)])
        by_image = (correct[i].astype(float) - correct[j]).mean(0)
        over_seeds, freedom = least_squares(correct.mean(2), i, j)
        f1, f2 = (
            by_image.mean() ** 2 / over_seeds,
            by_image.mean() ** 2 / (by_image.var(ddof=1) / 200),
        )
        smallest = f1 * f2 / (f1 + f2)
        degrees = (f1 + f2) ** 2 / (f1**2 / 199 + f2**2 / freedom)
        assert found.p == pytest.approx(stats.f.sf(smallest, 1, degrees))
        assert sum(found.interval) / 2 == pytest.approx(by_image.mean())
        half = (found.interval.high - found.interval.low) / 2
        quantile = stats.t.isf(0.025, degrees)
        assert half == pytest.approx(quantile * abs(by_image.mean()) / math.sqrt(smallest))


def test_crossed_rarely_tells_models_apart_that_differ_in_luck_only():
    """Luck with seeds and with images: other seeds and images would show no difference."""
    rng, told, tested = np.random.default_rng(0), 0, 400
    for _ in range(tested):
        images, seeds = rng.normal(0, 0.3, (2, 1, 300)), rng.normal(0, 0.1, (2, 3, 1))
        correct = rng.normal(0, 1, (2, 3, 300)) < images + seeds
        told += crossed(correct, [(0, 1)])[0].p <= 0.05
    assert told <= 0.06 * tested


def test_crossed_needs_spread_over_seeds():
    correct = np.zeros((2, 2, 10), bool)
    correct[0, :, :6] = True
    assert crossed(correct, [(0, 1)]) == [(None, 1.0)]
    correct[0, 0, 6] = True
    assert crossed(correct, [(0, 1)])[0].p < 0.05

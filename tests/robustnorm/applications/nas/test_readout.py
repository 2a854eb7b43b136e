import numpy as np
import pytest

from robustnorm.applications.nas.benchmark import accuracies
from robustnorm.applications.nas.readout import log_probabilities, read
from robustnorm.applications.nas.space import SKIP, all_cells, number


@pytest.fixture
def alpha():
    return np.random.default_rng(0).normal(size=(6, 5))


def test_probabilities_sum_to_one(alpha):
    assert np.exp(log_probabilities(alpha)).sum() == pytest.approx(1, abs=1e-12)
    assert np.exp(log_probabilities(100 * alpha)).sum() == pytest.approx(1, abs=1e-12)


def test_probability_is_the_product_over_the_edges(alpha):
    cell = (4, 0, 3, 1, 2, 2)
    softmax = np.exp(alpha) / np.exp(alpha).sum(axis=1, keepdims=True)
    expected = np.prod([softmax[edge, operation] for edge, operation in enumerate(cell)])
    assert np.exp(log_probabilities(alpha))[number(cell)] == pytest.approx(expected, rel=1e-12)


def test_uniform_alpha_expects_the_mean_of_all_cells():
    found = read(np.zeros((6, 5)))
    assert [round(100 * value, 2) for value in found.expected] == [87.06, 61.41, 33.59]
    assert found.skip_mass == pytest.approx(0.2)
    assert np.isnan(found.rank_correlation).all()  # all are equally probable


def test_alpha_of_one_cell_expects_that_cell_s_accuracy():
    cell = (3, 1, 0, 4, 2, 1)
    alpha = np.full((6, 5), -50.0)
    alpha[np.arange(6), cell] = 50.0
    found = read(alpha)
    assert found.cell == cell
    assert found.skips == 2
    np.testing.assert_allclose(found.expected, accuracies()[number(cell)], rtol=1e-12)
    np.testing.assert_array_equal(found.truth, accuracies()[number(cell)])


def test_expected_accuracy_is_the_mean_over_drawn_cells(alpha):
    rng = np.random.default_rng(1)
    softmax = np.exp(alpha) / np.exp(alpha).sum(axis=1, keepdims=True)
    drawn = np.stack([rng.choice(5, 20_000, p=row) for row in softmax])
    values = accuracies()[[number(cell) for cell in drawn.T.tolist()]]
    error = values.std(axis=0) / np.sqrt(len(values))
    np.testing.assert_array_less(abs(values.mean(axis=0) - read(alpha).expected), 5 * error)


def test_rank_correlation_is_that_of_the_ranks(alpha):
    def ranks(values):
        order = np.unique(values, return_inverse=True)[1]
        counts = np.bincount(order)
        return (np.cumsum(counts) - (counts - 1) / 2)[order]  # ties share their mean rank

    log_p = log_probabilities(alpha)
    expected = np.corrcoef(ranks(log_p), ranks(accuracies()[:, 1]))[0, 1]
    assert read(alpha).rank_correlation[1] == pytest.approx(expected, abs=1e-9)


def test_alpha_that_knows_the_accuracies_correlates_more():
    # Each operation's mean accuracy over all cells with it, as its logit.
    cells, values = all_cells(), accuracies()[:, 1]
    alpha = np.array([[values[cells[:, e] == o].mean() for o in range(5)] for e in range(6)])
    assert read(alpha).rank_correlation[1] > 0.5
    assert read(-alpha).rank_correlation[1] < -0.5


def test_skip_mass_is_the_mean_over_the_edges(alpha):
    softmax = np.exp(alpha) / np.exp(alpha).sum(axis=1, keepdims=True)
    assert read(alpha).skip_mass == pytest.approx(softmax[:, SKIP].mean())


def test_alpha_of_another_shape_is_refused():
    with pytest.raises(ValueError, match=r"alpha must be \(6, 5\), got \(5, 6\)"):
        read(np.zeros((5, 6)))

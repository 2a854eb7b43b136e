"""The result of a search: the cell with the largest alpha, and exact means over all cells."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.stats import spearmanr

from robustnorm.applications.nas.benchmark import SETS, accuracies
from robustnorm.applications.nas.space import EDGES, OPERATIONS, SKIP, Cell, all_cells, number


class Readout(NamedTuple):
    """What alpha encodes; tuples have one entry per data set in ``SETS``.

    Args:
        cell: The operation with the largest alpha on each edge.
        truth: Test accuracy of that cell when trained alone, as a fraction.
        expected: Mean test accuracy over all cells, weighted by their probability under alpha.
        rank_correlation: Spearman's correlation between probability and test accuracy over all
            cells; NaN when all are equally probable.
        skip_mass: Probability of the skip connection, averaged over the edges.
    """

    cell: Cell
    truth: tuple[float, ...]
    expected: tuple[float, ...]
    rank_correlation: tuple[float, ...]
    skip_mass: float

    @property
    def skips(self) -> int:
        """Number of skip connections among the cell's six edges."""
        return self.cell.count(SKIP)


def log_probabilities(alpha: NDArray[np.float64]) -> NDArray[np.float64]:
    r"""Returns log p of every cell, (15625,), with :math:`p = \prod_e \mathrm{softmax}(\alpha_e)`.

    Args:
        alpha: (6, 5).
    """
    log_softmax = alpha - np.logaddexp.reduce(alpha, axis=1, keepdims=True)
    found: NDArray[np.float64] = log_softmax[np.arange(len(EDGES)), all_cells()].sum(axis=1)
    return found


def read(alpha: NDArray[np.float64]) -> Readout:
    """Returns the readout of alpha, (6, 5)."""
    if alpha.shape != (len(EDGES), len(OPERATIONS)):
        raise ValueError(f"alpha must be (6, 5), got {alpha.shape}")
    table, log_p = accuracies(), log_probabilities(alpha)
    p = np.exp(log_p)
    cell = tuple(alpha.argmax(axis=1).tolist())
    # If all are equal up to rounding, there is no order.
    ranked = np.ptp(log_p) > 1e-12
    correlations = [
        float(spearmanr(log_p, table[:, index]).statistic) if ranked else float("nan")
        for index in range(len(SETS))
    ]
    softmax = np.exp(alpha - np.logaddexp.reduce(alpha, axis=1, keepdims=True))
    return Readout(
        cell,
        tuple(table[number(cell)].tolist()),
        tuple((p @ table).tolist()),
        tuple(correlations),
        float(softmax[:, SKIP].mean()),
    )

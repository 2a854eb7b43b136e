"""Accuracies of all NAS-Bench-201 cells, trained from scratch by the benchmark's authors.

``nasbench201.npz`` holds for each data set the test accuracy of every cell after 200 epochs, in the
order of ``all_cells``. They are integers in units of 1/600, 1/300 or 1/180 of a percent, so that
means over two or three seeds on 5,000 or 3,000 images are exact. They come from the public
repository v-tao/nats-bench-landscape, which took them from NATS-Bench (Dong et al., MIT licence).
"""

from __future__ import annotations

import csv
from collections.abc import Iterable
from functools import cache
from importlib.resources import files
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from robustnorm.applications.nas.space import CELLS, Cell, all_cells, from_string, number
from robustnorm.evaluation.statistics import Interval

# The benchmark's data sets; a search may use other data.
SETS = ("CIFAR-10", "CIFAR-100", "ImageNet16-120")
_FILE = "nasbench201.npz"
_PARTS = np.array([600, 300, 180])
# Columns of the CSV file from which the packaged file was made.
_COLUMNS = [f"{name}TestAccuracy200Epochs" for name in ("CIFAR10", "CIFAR100", "ImageNet")]


class SetStatistics(NamedTuple):
    """Accuracies of all cells on one data set, as fractions; 90 % of them lie in ``middle``."""

    best: float
    best_cell: Cell
    mean: float
    median: float
    std: float
    middle: Interval


@cache
def accuracies() -> NDArray[np.float64]:
    """Returns the test accuracies as fractions (15625, 3), by cell and data set."""
    with (files(__package__) / _FILE).open("rb") as file, np.load(file) as columns:
        parts = np.stack([columns[name] for name in SETS], axis=1)
    assert parts.shape == (CELLS, len(SETS))
    found: NDArray[np.float64] = parts / (100 * _PARTS)
    found.setflags(write=False)
    return found


def set_statistics(index: int) -> SetStatistics:
    """Returns the accuracies of random cells and of the best one on ``SETS[index]``."""
    values = accuracies()[:, index]
    best = int(values.argmax())
    low, high = np.quantile(values, [0.05, 0.95])
    return SetStatistics(
        float(values[best]),
        tuple(all_cells()[best].tolist()),
        float(values.mean()),
        float(np.median(values)),
        float(values.std()),
        Interval(float(low), float(high)),
    )


def compact(lines: Iterable[str]) -> dict[str, NDArray[np.uint16]]:
    """Converts the published CSV file to the content of the packaged file.

    Args:
        lines: A header and one row per cell, with three accuracies in percent and
            ``ArchitectureString``.

    Raises:
        ValueError: When cells are missing, or accuracies are not multiples of the units above.
    """
    found = np.full((CELLS, len(SETS)), np.nan)
    for row in csv.DictReader(lines):
        found[number(from_string(row["ArchitectureString"]))] = [float(row[c]) for c in _COLUMNS]
    parts = np.rint(found * _PARTS)
    if not np.abs(found - parts / _PARTS).max() < 1e-5:
        raise ValueError("each cell needs accuracies that are means over whole counts of images")
    return {name: parts[:, column].astype(np.uint16) for column, name in enumerate(SETS)}

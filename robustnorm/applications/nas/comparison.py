"""Groups searches by norm and compares pairs of norms on the seeds they share."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

from robustnorm.applications.nas.benchmark import SETS
from robustnorm.applications.nas.readout import Readout, read
from robustnorm.applications.nas.record import SearchRecord
from robustnorm.evaluation.statistics import holm, sign_flip
from robustnorm.reporting.comparisons import LEVEL
from robustnorm.settings.base import names
from robustnorm.settings.nas import SEARCH_NORMS, ComparedSearches, SearchFiles, SearchNorm
from robustnorm.system.errors import UsageError

NAMES: dict[SearchNorm, str] = {
    "bn": "DARTS",
    "affine": "DARTS-affine",
    "ccbn": "DARTS-CCBN",
    "sabn": "DARTS-SaBN",
}
# Index of the paper's first data set.
HEADLINE = SETS.index("CIFAR-100")


@dataclass(frozen=True)
class Searched:
    """The searches with one norm, sorted by seed."""

    norm: SearchNorm
    records: tuple[SearchRecord, ...]

    @property
    def name(self) -> str:
        return NAMES[self.norm]

    @cached_property
    def readouts(self) -> dict[int, Readout]:
        """The readout of the final alpha, by seed."""
        return {r.search.seed: read(r.history[-1].array) for r in self.records}


@dataclass(frozen=True)
class Pair:
    """Two norms compared on their common seeds: the second's value minus the first's."""

    first: Searched
    second: Searched
    differences: tuple[float, ...]
    p: float
    adjusted: float = 1.0

    @property
    def distinguishable(self) -> bool:
        return self.adjusted <= LEVEL


# Quantities to compare: name, whether it is printed in percent, and its value in a readout.
QUANTITIES: list[tuple[str, bool, Callable[[Readout], float]]] = [
    ("ground truth of the cell, CIFAR-100", True, lambda r: r.truth[HEADLINE]),
    ("ground truth of the cell, ImageNet16-120", True, lambda r: r.truth[2]),
    ("E[accuracy], CIFAR-100", True, lambda r: r.expected[HEADLINE]),
    ("rank correlation, CIFAR-100", False, lambda r: r.rank_correlation[HEADLINE]),
    ("skip mass", False, lambda r: r.skip_mass),
]


def group_by_norm(records: Sequence[SearchRecord]) -> list[Searched]:
    """Groups the searches by norm, in the paper's order.

    Raises:
        UsageError: When there are none, or they differ in more than norm and seed.
    """
    if not records:
        raise UsageError("there are no searches to compare; run robustnorm table2")
    first = records[0]
    for record in records:
        differences = first.search.differences(record.search, names(SearchFiles, ComparedSearches))
        if record.dataset["sha256"] != first.dataset["sha256"]:
            differences = f"data: {record.dataset['name']} there, {first.dataset['name']} here"
        if differences:
            raise UsageError(
                f"searches to compare may differ only in norm and seed; {record.search.run} "
                f"differs from {first.search.run} ({differences})"
            )
    ordered = sorted(records, key=lambda record: record.search.seed)
    return [
        Searched(norm, found)
        for norm in SEARCH_NORMS
        if (found := tuple(r for r in ordered if r.search.norm == norm))
    ]


def compare_norms(searched: Sequence[Searched], value: Callable[[Readout], float]) -> list[Pair]:
    """Returns all pairs of norms, with p-values adjusted together."""
    pairs = []
    for first, second in itertools.combinations(searched, 2):
        one, other = first.readouts, second.readouts
        seeds = sorted(one.keys() & other.keys())
        differences = tuple(value(other[seed]) - value(one[seed]) for seed in seeds)
        p = sign_flip(differences)
        if p is not None:
            pairs.append(Pair(first, second, differences, p))
    adjusted = holm([pair.p for pair in pairs])
    return [
        Pair(pair.first, pair.second, pair.differences, pair.p, p)
        for pair, p in zip(pairs, adjusted, strict=True)
    ]

"""Table 2 of the paper and further comparisons, made from the records of searches."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import mean, stdev

from robustnorm.applications.nas.benchmark import SETS, set_statistics
from robustnorm.applications.nas.comparison import (
    HEADLINE,
    NAMES,
    QUANTITIES,
    Searched,
    compare_norms,
    group_by_norm,
)
from robustnorm.applications.nas.record import SearchRecord
from robustnorm.applications.nas.space import EDGES, num_paths, to_string
from robustnorm.evaluation.statistics import Interval, letters, student
from robustnorm.reporting.render import Cell, Table, bracketed
from robustnorm.settings.nas import SEARCH_NORMS, SearchNorm

# Gong et al., Sandwich Batch Normalization, WACV 2022, arXiv:2102.11382, Table 2: mean and standard
# deviation in percent. CIFAR-10 is not in it.
PAPER: dict[str, dict[SearchNorm, tuple[float, float]]] = {
    "CIFAR-100": {
        "bn": (44.05, 7.47),
        "affine": (63.46, 2.41),
        "ccbn": (62.16, 2.62),
        "sabn": (71.56, 1.39),
    },
    "ImageNet16-120": {
        "bn": (36.47, 7.06),
        "affine": (37.26, 7.65),
        "ccbn": (31.25, 6.20),
        "sabn": (45.85, 0.72),
    },
}
_PAPER_OPTIMUM = {"CIFAR-100": 73.51, "ImageNet16-120": 47.31}
# The paper's two sets first.
_ORDER = [SETS.index(name) for name in ("CIFAR-100", "ImageNet16-120", "CIFAR-10")]


def tables(records: Sequence[SearchRecord]) -> list[Table]:
    """Returns Table 2, the exact means over all cells, the paired tests and every search.

    The paired tests are omitted if no two norms have two seeds in common.

    Args:
        records: Records that differ only in norm and seed.

    Raises:
        UsageError: As ``group_by_norm``.
    """
    searched = group_by_norm(records)
    setting = setting_note(searched)
    made = [
        _table2(searched, setting),
        _expected(searched, setting),
        _paired(searched, setting),
        _searches(searched, setting),
    ]
    return [table for table in made if table.rows]


def summary(searched: Sequence[Searched]) -> str:
    """States whether SaBN finds better cells than plain DARTS, as in the paper.

    Args:
        searched: From ``group_by_norm``.
    """
    sentences = []
    for words, percent, value in QUANTITIES:
        for pair in compare_norms(searched, value):
            if (pair.first.norm, pair.second.norm) == ("bn", "sabn"):
                verdict = "not distinguishable"
                if pair.distinguishable:
                    verdict = "higher" if mean(pair.differences) > 0 else "lower"
                sentences.append(
                    f"{words}: {_signed(mean(pair.differences), percent)} "
                    f"{_limits(student(pair.differences), percent)}, {verdict} "
                    f"(p = {pair.adjusted:.3f}, {len(pair.differences)} seeds)"
                )
    if not sentences:
        return "DARTS-SaBN and DARTS have fewer than two seeds in common, so there is no result."
    return "DARTS-SaBN minus DARTS: " + "; ".join(sentences) + "."


def setting_note(searched: Sequence[Searched]) -> str:
    """Describes what was searched, on which data and for how long."""
    record = searched[0].records[0]
    search, data = record.search, record.dataset
    seeds = " ".join(f"{one.name} {len(one.records)}," for one in searched).rstrip(",")
    paths = ", ".join(str(num_paths(source, search.paths)) for source in range(3))
    half = {"train": "held-out training images", "test": "test images"}[search.alpha_split]
    return (
        f"Searched on {data['name']}: {data['weight_images']:,} training images for the weights, "
        f"{data['alpha_images']:,} {half} for alpha. First-order DARTS, C = {search.channels}, "
        f"N = {search.cells}, batch {search.batch_size}, {search.stop_step:,} of {search.steps:,} "
        f"steps, alpha's rate {search.alpha_learning_rate:g}; affine paths '{search.paths}' "
        f"({paths} on edges out of nodes 0, 1, 2). Seeds: {seeds}."
    )


_TRUTH_NOTE = (
    "Ours: test accuracy of the cell after the last step, trained alone for 200 epochs by the "
    "authors of NAS-Bench-201, mean over seeds; it is not used to choose anything. Intervals: 95 "
    "%, Student's over seeds."
)
_GROUP_NOTE = (
    "Group: rows of one data set that share a letter are not distinguishable at the 5 % level "
    "(exact sign-flip test on pairs with the same seed, Holm's adjustment); empty with fewer than "
    "two seeds."
)
_PAPER_NOTE = (
    "Paper: searches at full scale (27,335 steps on CIFAR-100) on the row's data set, with alpha "
    "trained on half of its test images and an unstated number of seeds. Unless the searches above "
    "are the same, the two columns are from different experiments."
)


def _table2(searched: Sequence[Searched], setting: str) -> Table:
    rows: list[tuple[Cell, ...]] = []
    for index in _ORDER:
        title = SETS[index]
        paper = PAPER.get(title, {})
        marks = _groups(searched, index)
        for norm in SEARCH_NORMS:
            published = f"{paper[norm][0]:.2f} ± {paper[norm][1]:.2f}" if norm in paper else None
            one = next((one for one in searched if one.norm == norm), None)
            if one is None:
                rows.append((title, NAMES[norm], None, None, None, None, published))
                continue
            values = [readout.truth[index] for readout in one.readouts.values()]
            rows.append((title, one.name, *_moments(values), marks[searched.index(one)], published))
        cells = set_statistics(index)
        rows.append((title, "random cell", cells.mean, None, cells.std, None, None))
        optimum = _PAPER_OPTIMUM.get(title)
        published = None if optimum is None else f"{optimum:.2f}"
        rows.append((title, "optimum", cells.best, None, None, None, published))
    return Table(
        "table2",
        "Table 2: ground-truth accuracy of the cell found by the search",
        ("Data set", "Search", "Ours %", "95 % interval", "SD", "Group", "Paper %"),
        rows,
        [setting, _TRUTH_NOTE, _GROUP_NOTE, _PAPER_NOTE, *map(_random_note, _ORDER)],
    )


def _random_note(index: int) -> str:
    cells, title = set_statistics(index), SETS[index]
    below = sum(100 * cells.median > value for value, _ in PAPER.get(title, {}).values())
    paper = f"; {below} of the paper's 4 rows lie below the median" if title in PAPER else ""
    return (
        f"Random cell, {title}: one of the 15,625, all equally probable: mean "
        f"{100 * cells.mean:.2f}, median {100 * cells.median:.2f}, SD {100 * cells.std:.2f}, 90 % "
        f"of them in {_limits(cells.middle, percent=True)}{paper}."
    )


def _groups(searched: Sequence[Searched], index: int) -> list[str | None]:
    pairs = compare_norms(searched, lambda readout: readout.truth[index])
    if not pairs:
        return [None] * len(searched)
    differ = {(pair.first.norm, pair.second.norm) for pair in pairs if pair.distinguishable}
    norms = [one.norm for one in searched]
    return list(letters(lambda i, j: (norms[i], norms[j]) in differ, len(norms)))


def _expected(searched: Sequence[Searched], setting: str) -> Table:
    rows: list[tuple[Cell, ...]] = []
    for index in _ORDER:
        for one in searched:
            readouts = list(one.readouts.values())
            correlations = [readout.rank_correlation[index] for readout in readouts]
            masses = [readout.skip_mass for readout in readouts]
            rows.append(
                (
                    SETS[index],
                    one.name,
                    *_moments([readout.expected[index] for readout in readouts]),
                    f"{mean(correlations):.3f}",
                    _limits(student(correlations)),
                    f"{mean(masses):.3f}",
                    _limits(student(masses)),
                )
            )
        random = (
            "random cell",
            set_statistics(index).mean,
            None,
            None,
            "0.000",
            None,
            "0.200",
            None,
        )
        rows.append((SETS[index], *random))
    return Table(
        "expected",
        "All cells under alpha: expected accuracy, rank correlation, skip mass",
        (
            "Data set",
            "Search",
            "E[accuracy] %",
            "95 % interval",
            "SD",
            "Rank correlation",
            "95 % interval of it",
            "Skip mass",
            "95 % interval of that",
        ),
        rows,
        [
            setting,
            "E[accuracy]: exact mean of the ground truth over all 15,625 cells, weighted by their "
            "probability under softmax(alpha). Rank correlation: Spearman's, between that "
            "probability and the ground truth. Skip mass: probability of the skip connection, mean "
            "over the edges. The cell with the largest alpha jumps between neighbours of very "
            "different accuracy; these quantities change little.",
        ],
    )


def _paired(searched: Sequence[Searched], setting: str) -> Table:
    rows: list[tuple[Cell, ...]] = [
        (
            words,
            f"{pair.second.name} minus {pair.first.name}",
            str(len(pair.differences)),
            _signed(mean(pair.differences), percent),
            _limits(student(pair.differences), percent),
            f"{pair.p:.4f}",
            f"{pair.adjusted:.4f}",
        )
        for words, percent, value in QUANTITIES
        for pair in compare_norms(searched, value)
    ]
    return Table(
        "paired",
        "Paired tests: two norms on the same seeds",
        ("Quantity", "Pair", "Seeds", "Difference", "95 % interval", "p", "p, Holm"),
        rows,
        [
            setting,
            "With the same seed, all norms start from the same weights and alpha and see the same "
            "batches. Accuracies in percentage points. p: exact sign-flip test, with Holm's "
            "adjustment over the pairs of a quantity. Intervals: Student's, not adjusted.",
        ],
    )


def _searches(searched: Sequence[Searched], setting: str) -> Table:
    rows: list[tuple[Cell, ...]] = [
        (
            one.name,
            str(seed),
            *(readout.truth[index] for index in _ORDER),
            str(readout.skips),
            f"{readout.skip_mass:.3f}",
            readout.expected[HEADLINE],
            f"{readout.rank_correlation[HEADLINE]:.3f}",
            to_string(readout.cell).replace("|", "/"),
        )
        for one in searched
        for seed, readout in one.readouts.items()
    ]
    return Table(
        "searches",
        "Every search",
        (
            "Search",
            "Seed",
            *(f"{SETS[index]} %" for index in _ORDER),
            f"Skips of {len(EDGES)}",
            "Skip mass",
            "E[CIFAR-100] %",
            "Rank correlation",
            "Cell",
        ),
        rows,
        [setting, 'Cells in NAS-Bench-201\'s notation, with "/" for the vertical bar.'],
    )


def _moments(values: Sequence[float]) -> tuple[float, Interval | None, float | None]:
    limits = student(values)
    if limits is not None:  # accuracies lie in [0, 1]
        limits = Interval(max(0.0, limits.low), min(1.0, limits.high))
    return mean(values), limits, stdev(values) if len(values) > 1 else None


def _signed(value: float, percent: bool) -> str:
    return f"{100 * value:+z.2f}" if percent else f"{value:+z.3f}"


def _limits(limits: Interval | None, percent: bool = False) -> str | None:
    return bracketed(limits, scale=100) if percent else bracketed(limits, 3)

"""Tests which differences between models, or between branches of a model, exceed chance."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache

import numpy as np

from robustnorm.evaluation.statistics import Difference, Interval, crossed, holm, letters, mcnemar
from robustnorm.records.bits import Bits
from robustnorm.reporting.model_records import WORST, ModelRecords, has_worst
from robustnorm.reporting.render import Cell, Table, p_value

LEVEL = 0.05
Side = tuple[ModelRecords, str]  # a model and one of its branches


@dataclass(frozen=True)
class Comparison:
    """Two sets of verdicts on the same images, of one seed or of the same seeds.

    Args:
        first: Name of the first model or branch.
        second: Name of the second one.
        first_only: Number of images that only the first classifies correctly, summed over seeds.
        second_only: Number of images that only the second classifies correctly, likewise.
        n: Number of images times that of seeds.
        p: p-value of the exact McNemar test; with several seeds of Clark's min F' test.
        adjusted: p after Holm's adjustment for all comparisons of the family.
        interval: 95 % interval of the difference over other seeds and images; None for one seed and
            without spread over seeds.
    """

    first: str
    second: str
    first_only: int
    second_only: int
    n: int
    p: float
    adjusted: float
    interval: Interval | None = None

    @property
    def distinguishable(self) -> bool:
        """Whether the difference is significant at the 5 % level."""
        return self.adjusted <= LEVEL

    @property
    def difference(self) -> float:
        """Accuracy of the first minus that of the second."""
        return (self.first_only - self.second_only) / self.n

    @property
    def lead(self) -> float:
        """The difference, 0 if it is not significant."""
        return self.difference * self.distinguishable


def compare(family: Iterable[Mapping[str, Bits]]) -> list[Comparison]:
    """Compares all pairs within each set of verdicts; the p-values are adjusted together.

    Args:
        family: Sets of verdicts by name, bool (seeds, n) each, on the same seeds and images. Of
            several seeds, the accuracies of a set vary equally over seeds; see ``crossed``.
    """
    found: list[Comparison] = []
    for compared in family:
        (names, verdicts), count = zip(*compared.items(), strict=True), len(compared)
        pairs = list(itertools.combinations(range(count), 2))
        tests = (
            [Difference(None, mcnemar(verdicts[i][0], verdicts[j][0])) for i, j in pairs]
            if len(verdicts[0]) == 1 or not pairs
            else crossed(np.stack(verdicts), pairs)
        )
        for (i, j), test in zip(pairs, tests, strict=True):
            one, other = verdicts[i], verdicts[j]
            first_only, second_only = int((one & ~other).sum()), int((other & ~one).sum())
            counts = (first_only, second_only, one.size)
            found.append(Comparison(names[i], names[j], *counts, test.p, test.p, test.interval))
    adjusted = holm([test.p for test in found])
    return [replace(test, adjusted=p) for test, p in zip(found, adjusted, strict=True)]


def sample(models: Sequence[ModelRecords]) -> tuple[list[ModelRecords], list[int]]:
    """Returns the models to compare, and the seeds that are the sample.

    Models with two or more seeds in common are compared on all of these; controls, whose accuracies
    vary differently over seeds, are then left out. Otherwise the list of seeds is empty, and each
    model's first seed counts.
    """
    trained = [model for model in models if model.adversarial] or [*models]
    shared = set.intersection(*({record.seed for record in model.records} for model in trained))
    return (trained, sorted(shared)) if len(shared) > 1 else ([*models], [])


def groups(evaluation: str, sides: Sequence[Side]) -> list[str | None]:
    """Returns each row's letters; rows that share one are not distinguishable at the 5 % level.

    Rows of different threat models or radii are not compared and share no letter. Models that are
    not compared have none.

    Args:
        evaluation: As in ``ModelRecords.correct``.
        sides: Model and branch of each row, with verdicts on the same images.
    """
    models, seeds = sample([model for model, _ in sides])
    compared = {model.name for model in models}
    rows = [(model, branch) for model, branch in sides if model.name in compared]
    labels = [model.label(branch) for model, branch in rows]
    tests = compare(_by_ball(evaluation, rows, seeds))
    alike = {(test.first, test.second) for test in tests if not test.distinguishable}
    marks = letters(lambda i, j: (labels[i], labels[j]) not in alike, len(rows))
    found = dict(zip(labels, marks, strict=True))
    return [found.get(model.label(branch)) for model, branch in sides]


def group_note(models: Sequence[ModelRecords]) -> str:
    """Returns the note that explains the letters of ``groups``."""
    test, of = _described(models)
    return (
        "Group: rows of one evaluation that share a letter are not distinguishable at the 5 % "
        f"level ({test}, with Holm's adjustment for all pairs of the evaluation{of})."
    )


def _described(models: Sequence[ModelRecords]) -> tuple[str, str]:
    """Returns the name of the test, and what of the models it compares."""
    compared, seeds = sample(models)
    if not seeds:
        several = any(len(model.records) > 1 for model in models)
        return "exact McNemar test on the same images", "; first seed of each" * several
    left_out = "; controls are not compared" * (len(compared) < len(models))
    return f"Clark's min F' test, whose samples are {len(seeds)} seeds and the images", left_out


def _by_ball(evaluation: str, sides: Iterable[Side], seeds: Sequence[int]) -> list[dict[str, Bits]]:
    """Returns the verdicts of the sides by name, in one set for each threat model and radius."""
    sets: dict[object, dict[str, Bits]] = {}
    for model, branch in sides:
        found = model.by_seed(evaluation, branch)
        of = [found[seed] for seed in seeds] or [next(iter(found.values()))]
        ball = model.ball(evaluation, branch)
        sets.setdefault(ball, {})[model.label(branch)] = np.stack(of)
    return list(sets.values())


def families(
    models: Sequence[ModelRecords],
    robust: Sequence[str] | None = None,
    *,
    together: bool = False,
) -> dict[str, list[Comparison]]:
    """Returns the comparisons of a report, on the seeds that ``sample`` returns.

    The rows of Table 3, and those of Table 4, are compared in pairs by standard accuracy and by
    each robust accuracy, and so are the branches of each model. Branches attacked in different
    balls are not compared by robust accuracy; a family without pairs is omitted.

    Args:
        models: Models with verdicts on the same images.
        robust: Evaluations under attack; by default PGD-20 and, if all models have it, the worst
            case.
        together: Adjust p for the pairs of all branches, as the letters of a table that shows all.
    """
    if robust is None:
        robust = ("RA, PGD-20", *[WORST] * has_worst(models))
    metrics = {
        "SA, clean branch": ("SA", "clean"),
        "SA, adversarial branch": ("SA", "adv"),
        **{f"{ra}, adversarial branch": (ra, "adv") for ra in robust},
    }
    compared, seeds = sample(models)
    every = [[(m, branch) for branch in m.records[0].branches] for m in compared]

    @cache
    def of_table(evaluation: str) -> dict[tuple[str, str], Comparison]:
        tests = compare(_by_ball(evaluation, itertools.chain(*every), seeds))
        return {(test.first, test.second): test for test in tests}

    def tests(evaluation: str, sets: Iterable[list[Side]]) -> list[Comparison]:
        family = [of for sides in sets for of in _by_ball(evaluation, sides, seeds)]
        if not together:
            return compare(family)
        pairs = itertools.chain(*(itertools.combinations(of, 2) for of in family))
        return [of_table(evaluation)[pair] for pair in pairs]

    found = {
        name: tests(evaluation, [[(m, branch) for m in compared for branch in m.branches(wanted)]])
        for name, (evaluation, wanted) in metrics.items()
    }
    for evaluation in ("SA", *robust):
        found[f"{evaluation}, between branches"] = tests(evaluation, every)
    return {name: family for name, family in found.items() if family}


def paired_tests(
    models: Sequence[ModelRecords],
    robust: Sequence[str] | None = None,
    *,
    together: bool = False,
) -> Table:
    """Returns the comparisons of ``families`` as a table."""
    (test, of), (_, seeds) = _described(models), sample(models)
    rows: list[tuple[Cell, ...]] = [
        (
            family,
            comparison.first,
            comparison.second,
            str(comparison.first_only),
            str(comparison.second_only),
            f"{100 * comparison.difference:+z.2f}",
            p_value(comparison.p),
            p_value(comparison.adjusted),
            "yes" if comparison.distinguishable else "no",
        )
        for family, comparisons in families(models, robust, together=together).items()
        for comparison in comparisons
    ]
    return Table(
        "paired-tests",
        "Paired tests on the same images",
        (
            "Evaluation",
            "First",
            "Second",
            "First only",
            "Second only",
            "Difference",
            "p",
            "p, Holm",
            "Differ",
        ),
        rows,
        [
            "First only, Second only: number of images that only that one classifies correctly"
            + ", summed over seeds" * bool(seeds)
            + f". Difference: in points. p: {test}, two-sided{of}. Holm: adjusted for all pairs of "
            f"{'branches in ' * together}the same evaluation. Differ: at the 5 % level."
        ],
    )

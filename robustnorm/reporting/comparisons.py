"""Tests which differences between models, or between branches of a model, exceed chance."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

from robustnorm.evaluation.statistics import holm, letters, mcnemar
from robustnorm.records.bits import Bits
from robustnorm.reporting.model_records import WORST, ModelRecords, has_worst
from robustnorm.reporting.render import Cell, Table, p_value

LEVEL = 0.05
_Side = tuple[ModelRecords, str]  # and one of its branches


@dataclass(frozen=True)
class Comparison:
    """Two sets of verdicts on the same images.

    Args:
        first: Name of the first model or branch.
        second: Name of the second one.
        first_only: Number of images that only the first classifies correctly.
        second_only: Number of images that only the second classifies correctly.
        n: Number of images.
        p: p-value of the exact McNemar test.
        adjusted: p after Holm's adjustment for all comparisons of the family.
    """

    first: str
    second: str
    first_only: int
    second_only: int
    n: int
    p: float
    adjusted: float

    @property
    def distinguishable(self) -> bool:
        """Whether the difference is significant at the 5 % level."""
        return self.adjusted <= LEVEL

    @property
    def lead(self) -> int:
        """Images by which the first exceeds the second, 0 if they are not distinguishable."""
        return (self.first_only - self.second_only) * self.distinguishable


def compare(pairs: Sequence[tuple[tuple[str, Bits], tuple[str, Bits]]]) -> list[Comparison]:
    """Compares the pairs of one family, whose p-values are adjusted together.

    Args:
        pairs: Pairs of (name, verdicts (n,)).
    """
    p_values = [mcnemar(one, other) for (_, one), (_, other) in pairs]
    return [
        Comparison(
            first,
            second,
            int((one & ~other).sum()),
            int((other & ~one).sum()),
            len(one),
            p,
            adjusted,
        )
        for ((first, one), (second, other)), p, adjusted in zip(
            pairs, p_values, holm(p_values), strict=True
        )
    ]


def groups(verdicts: Sequence[Bits], balls: Sequence[object] | None = None) -> list[str]:
    """Returns each row's letters; rows that share one are not distinguishable at the 5 % level.

    Args:
        verdicts: Verdicts of each row on the same images, bool (n,) each.
        balls: The ball in which each row was attacked; rows of different balls are not compared and
            share no letter.
    """
    pairs = [
        (i, j)
        for i, j in itertools.combinations(range(len(verdicts)), 2)
        if balls is None or balls[i] == balls[j]
    ]
    found = compare([((str(i), verdicts[i]), (str(j), verdicts[j])) for i, j in pairs])
    alike = {pair for pair, test in zip(pairs, found, strict=True) if not test.distinguishable}
    return letters(lambda i, j: (i, j) not in alike, len(verdicts))


def families(
    models: Sequence[ModelRecords], robust: Sequence[str] | None = None
) -> dict[str, list[Comparison]]:
    """Returns the comparisons of a report, based on the first seed of each model.

    Models are compared in pairs by standard accuracy and by each robust accuracy, and so are the
    branches of each model. Branches attacked in different balls are not compared by robust
    accuracy; a family without pairs is omitted.

    Args:
        models: Models with verdicts on the same images.
        robust: Evaluations under attack; by default PGD-20 and, if all models have it, the worst
            case.
    """
    if robust is None:
        robust = ("RA, PGD-20", *[WORST] * has_worst(models))
    metrics = {
        "SA, clean branch": ("SA", "clean"),
        "SA, adversarial branch": ("SA", "adv"),
        **{f"{ra}, adversarial branch": (ra, "adv") for ra in robust},
    }
    pairs: dict[str, tuple[str, list[tuple[_Side, _Side]]]] = {}
    for name, (evaluation, branch) in metrics.items():
        sides = [(model, model.branch(branch)) for model in models]
        pairs[name] = evaluation, list(itertools.combinations(sides, 2))
    for evaluation in ("SA", *robust):
        pairs[f"{evaluation}, between branches"] = (
            evaluation,
            [
                ((model, one), (model, other))
                for model in models
                for one, other in itertools.combinations(model.records[0].branches, 2)
            ],
        )
    tested = {
        name: [
            (_named(evaluation, *one), _named(evaluation, *other))
            for one, other in family
            if one[0].ball(evaluation, one[1]) == other[0].ball(evaluation, other[1])
        ]
        for name, (evaluation, family) in pairs.items()
    }
    return {name: compare(family) for name, family in tested.items() if family}


def _named(evaluation: str, model: ModelRecords, branch: str) -> tuple[str, Bits]:
    return model.label(branch), model.correct(evaluation, branch)[0]


def paired_tests(models: Sequence[ModelRecords], robust: Sequence[str] | None = None) -> Table:
    """Returns the comparisons of ``families`` as a table."""
    rows: list[tuple[Cell, ...]] = [
        (
            family,
            comparison.first,
            comparison.second,
            str(comparison.first_only),
            str(comparison.second_only),
            f"{100 * (comparison.first_only - comparison.second_only) / comparison.n:+z.2f}",
            p_value(comparison.p),
            p_value(comparison.adjusted),
            "yes" if comparison.distinguishable else "no",
        )
        for family, comparisons in families(models, robust).items()
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
            "First only, Second only: number of images that only that one classifies correctly. "
            "Difference: in points. p: exact McNemar test, two-sided, first seed of each. Holm: "
            "adjusted for all pairs of the same evaluation. Differ: at the 5 % level."
        ],
    )

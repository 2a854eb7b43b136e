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


def groups(verdicts: Sequence[Bits]) -> list[str]:
    """Returns each row's letters; rows that share one are not distinguishable at the 5 % level.

    Args:
        verdicts: Verdicts of each row on the same images, bool (n,) each.
    """
    pairs = list(itertools.combinations(range(len(verdicts)), 2))
    found = compare([((str(i), verdicts[i]), (str(j), verdicts[j])) for i, j in pairs])
    differ = {
        pair for pair, comparison in zip(pairs, found, strict=True) if comparison.distinguishable
    }
    return letters(lambda i, j: (i, j) in differ, len(verdicts))


def families(
    models: Sequence[ModelRecords], robust: Sequence[str] | None = None
) -> dict[str, list[Comparison]]:
    """Returns the comparisons of a report, based on the first seed of each model.

    Models are compared in pairs by standard accuracy and by each robust accuracy, and so are the
    branches of each model; a family without pairs is omitted.

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
    pairs = {
        name: list(itertools.combinations([_named(m, *metric) for m in models], 2))
        for name, metric in metrics.items()
    }
    for evaluation in ("SA", *robust):
        pairs[f"{evaluation}, between branches"] = [
            (_named(model, evaluation, one), _named(model, evaluation, other))
            for model in models
            for one, other in itertools.combinations(model.records[0].branches, 2)
        ]
    return {name: compare(family) for name, family in pairs.items() if family}


def _named(model: ModelRecords, evaluation: str, branch: str) -> tuple[str, Bits]:
    return model.label(branch), model.correct(evaluation, model.branch(branch))[0]


def paired_tests(models: Sequence[ModelRecords], robust: Sequence[str] | None = None) -> Table:
    """Returns the comparisons of ``families`` as a table."""
    rows: list[tuple[Cell, ...]] = [
        (
            family,
            comparison.first,
            comparison.second,
            str(comparison.first_only),
            str(comparison.second_only),
            f"{100 * (comparison.first_only - comparison.second_only) / comparison.n:+.2f}",
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

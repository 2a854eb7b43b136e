"""Tests the paper's claims about norms, with the seeds as the sample."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from statistics import mean, stdev
from typing import NamedTuple

from scipy.stats import ttest_1samp

from robustnorm.evaluation.statistics import Interval, holm, sign_flip, student
from robustnorm.records.record import Record
from robustnorm.reporting.comparisons import LEVEL
from robustnorm.reporting.model_records import NAMES, WORST, ModelRecords, group
from robustnorm.reporting.render import Cell, Table, bracketed

PGD = "RA, PGD-20"
# Gong et al., Section 4.3: the norms in order of accuracy, best first.
CLEAN = ("saauxbn", "auxbn", "bn")
ROBUST = ("saauxbn", "auxbn", "modenorm", "bn")
CLAIMS = {("SA", "clean"): CLEAN, (PGD, "adv"): ROBUST, (WORST, "adv"): ROBUST}


class Claim(NamedTuple):
    """The claim that one norm is more accurate than another, and what the seeds say about it.

    Attributes:
        evaluation: "SA", ``PGD`` or ``WORST``.
        higher: The norm that is more accurate in the paper.
        lower: The other norm.
        differences: Accuracy of ``higher`` minus that of ``lower``, for each seed that both have.
        p: p-value of Student's paired test over seeds, with Holm's adjustment for all claims; 1 for
            one seed.
    """

    evaluation: str
    higher: str
    lower: str
    differences: tuple[float, ...]
    p: float

    @property
    def interval(self) -> Interval | None:
        """Student's 95 % interval for the mean difference over seeds."""
        return student(self.differences)

    @property
    def verdict(self) -> str:
        """One of "holds", "contradicted" and "not distinguishable"."""
        if self.p > LEVEL:
            return "not distinguishable"
        return "holds" if mean(self.differences) > 0 else "contradicted"


def claims(records: Sequence[Record]) -> list[Claim]:
    """Returns the claims that the records can test.

    Args:
        records: Records of one evaluation on the same images; norms are paired by seed.
    """
    models = {model.norm: model for model in group(records) if model.adversarial}
    found: list[tuple[str, str, str, tuple[float, ...]]] = []
    for (evaluation, branch), order in CLAIMS.items():
        known = [models[norm] for norm in order if norm in models]
        if evaluation == WORST and not all(_has_worst(model) for model in known):
            continue
        for higher, lower in itertools.combinations(known, 2):
            first, second = (_accuracies(model, evaluation, branch) for model in (higher, lower))
            differences = tuple(first[seed] - second[seed] for seed in first if seed in second)
            if differences:
                found.append((evaluation, higher.norm, lower.norm, differences))
    adjusted = holm([_p(differences) for *_, differences in found])
    return [Claim(*claim, p) for claim, p in zip(found, adjusted, strict=True)]


def claims_table(records: Sequence[Record]) -> Table | None:
    """Returns one row per claim; None if there are no two norms to compare."""
    found = claims(records)
    if not found:
        return None
    means = {(c.evaluation, c.higher, c.lower): mean(c.differences) for c in found}
    rows: list[tuple[Cell, ...]] = []
    for claim in found:
        worst = means.get((WORST, claim.higher, claim.lower))
        flip = sign_flip(claim.differences)
        rows.append(
            (
                claim.evaluation,
                f"{NAMES[claim.higher]} > {NAMES[claim.lower]}",
                claim.verdict,
                _points(mean(claim.differences)),
                bracketed(claim.interval, scale=100, signed=True),
                f"{sum(d > 0 for d in claim.differences)} of {len(claim.differences)}",
                f"{claim.p:.3f}",
                None if flip is None else f"{flip:.3f}",
                None
                if claim.evaluation != PGD or worst is None
                else _points(mean(claim.differences) - worst),
            )
        )
    return Table(
        "claims",
        "The paper's claims over seeds",
        (
            "Evaluation",
            "Claim",
            "Verdict",
            "Difference",
            "95 % interval",
            "Seeds as claimed",
            "p, Holm",
            "p, sign flips",
            "Not in worst case",
        ),
        rows,
        [
            "SA: clean branch; RA: adversarial branch. Difference: in points, paired by seed, mean "
            "over seeds. Interval and p: Student's, over seeds, p with Holm's adjustment for all "
            "rows. A claim holds or is contradicted at the 5 % level; otherwise there is no "
            "verdict.",
            f"Sign flips: exact permutation test; with {len(found[0].differences)} seeds no p is "
            f"below {2 / 2 ** len(found[0].differences):.3g}.",
            "Not in worst case: the part of the difference under PGD-20 that disappears in the "
            "worst case; PGD-20 depends on the scale of the logits.",
        ],
    )


def seeds_table(records: Sequence[Record]) -> Table:
    """Returns each model's accuracies, mean and standard deviation over seeds."""
    rows: list[tuple[Cell, ...]] = []
    for model in group(records):
        for evaluation in ("SA", PGD, *[WORST] * _has_worst(model)):
            for branch in dict.fromkeys(model.branch(wanted) for wanted in ("clean", "adv")):
                values = list(_accuracies(model, evaluation, branch).values())
                spread = f"{100 * stdev(values):.2f}" if len(values) > 1 else None
                rows.append(
                    (evaluation, model.label(branch), str(len(values)), mean(values), spread)
                )
    rows.sort(key=lambda row: ("SA", PGD, WORST).index(str(row[0])))
    return Table(
        "seeds",
        "Accuracy over seeds",
        ("Evaluation", "Model", "Seeds", "Mean %", "Standard deviation"),
        rows,
        [
            f"n = {records[0].n:,} test images of {records[0].dataset['name']} per seed; standard "
            "deviation over seeds, in points."
        ],
    )


def _has_worst(model: ModelRecords) -> bool:
    return all(record.has("worst") for record in model.records)


def _accuracies(model: ModelRecords, evaluation: str, branch: str) -> dict[int, float]:
    found = model.correct(evaluation, model.branch(branch))
    return {r.seed: float(v.mean()) for r, v in zip(model.records, found, strict=True)}


def _p(differences: Sequence[float]) -> float:
    if len(differences) < 2:
        return 1.0
    if len(set(differences)) == 1:  # without any spread the test is undefined
        return 1.0
    return float(ttest_1samp(differences, 0.0).pvalue)


def _points(difference: float) -> str:
    return f"{100 * difference:+.2f}"

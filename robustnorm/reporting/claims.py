"""The paper's claims on norms, one by one, with several seeds: seeds are the sample."""

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
from robustnorm.reporting.render import Cell, Table

PGD = "RA, PGD-20"
# Gong et al., Section 4.3: the order of the clean branch and that of robust accuracy, best first.
CLEAN = ("saauxbn", "auxbn", "bn")
ROBUST = ("saauxbn", "auxbn", "modenorm", "bn")
CLAIMS = {("SA", "clean"): CLEAN, (PGD, "adv"): ROBUST, (WORST, "adv"): ROBUST}


class Claim(NamedTuple):
    """That one norm is more accurate than another, and what the seeds say of it.

    Attributes:
        evaluation: "SA", ``PGD`` or ``WORST``.
        higher: Norm that the paper has ahead.
        lower: The other.
        differences: Accuracy of ``higher`` minus that of ``lower``, for each seed of both.
        p: Of Student's paired test over seeds, adjusted by Holm for all claims; 1 for one seed.
    """

    evaluation: str
    higher: str
    lower: str
    differences: tuple[float, ...]
    p: float

    @property
    def interval(self) -> Interval | None:
        """Student's 95 % interval of the mean difference over seeds."""
        return student(self.differences)

    @property
    def verdict(self) -> str:
        """Returns holds, contradicted, or not distinguishable."""
        if self.p > LEVEL:
            return "not distinguishable"
        return "holds" if mean(self.differences) > 0 else "contradicted"


def claims(records: Sequence[Record]) -> list[Claim]:
    """Returns the claims that the records can be asked about.

    Args:
        records: Of one evaluation, on the same images; norms are paired by seed.
    """
    models = {model.norm: model for model in group(records) if model.adversarial}
    found: list[tuple[str, str, str, tuple[float, ...]]] = []
    for (evaluation, branch), order in CLAIMS.items():
        known = [models[norm] for norm in order if norm in models]
        if evaluation == WORST and not all(_has_worst(model) for model in known):
            continue
        for higher, lower in itertools.combinations(known, 2):
            ours, theirs = (_accuracies(model, evaluation, branch) for model in (higher, lower))
            both = tuple(ours[seed] - theirs[seed] for seed in ours if seed in theirs)
            if both:
                found.append((evaluation, higher.norm, lower.norm, both))
    adjusted = holm([_p(differences) for *_, differences in found])
    return [Claim(*what, p) for what, p in zip(found, adjusted, strict=True)]


def claims_table(records: Sequence[Record]) -> Table | None:
    """Returns a row per claim; None without two norms to compare."""
    found = claims(records)
    if not found:
        return None
    under = {(c.evaluation, c.higher, c.lower): mean(c.differences) for c in found}
    rows: list[tuple[Cell, ...]] = []
    for claim in found:
        worst = under.get((WORST, claim.higher, claim.lower))
        flip = sign_flip(claim.differences)
        rows.append(
            (
                claim.evaluation,
                f"{NAMES[claim.higher]} > {NAMES[claim.lower]}",
                claim.verdict,
                _points(mean(claim.differences)),
                _interval(claim.interval),
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
            "SA: clean branch; RA: adversarial branch. Difference: points, paired by seed, mean "
            "over seeds; interval and p: Student's over seeds, p adjusted by Holm for all rows. "
            "A claim holds or is contradicted at the 5 % level; else no verdict is possible.",
            f"Sign flips: exact permutation test; with {len(found[0].differences)} seeds no p is "
            f"below {2 / 2 ** len(found[0].differences):.3g}.",
            "Not in worst case: the part of PGD-20's difference that the worst case does not "
            "show; PGD-20 depends on the scale of the logits.",
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
    if len(set(differences)) == 1:  # without any spread the test has no answer
        return 1.0
    return float(ttest_1samp(differences, 0.0).pvalue)


def _points(difference: float) -> str:
    return f"{100 * difference:+.2f}"


def _interval(interval: Interval | None) -> str | None:
    return None if interval is None else f"[{_points(interval.low)}, {_points(interval.high)}]"

"""Tests the paper's claims about norms, with the seeds as the sample."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from statistics import mean, stdev
from typing import NamedTuple

from scipy.stats import ttest_1samp

from robustnorm.evaluation.statistics import Interval, holm, sign_flip, student
from robustnorm.records.bits import Bits
from robustnorm.records.record import Record
from robustnorm.reporting.comparisons import LEVEL, compare
from robustnorm.reporting.model_records import NAMES, WORST, ModelRecords, group
from robustnorm.reporting.render import Cell, Table, bracketed, p_text, p_value

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
        by_images: For each of these seeds 1 or -1 if its networks differ on the test images as
            claimed or the other way, else 0: exact McNemar test, with Holm's adjustment for the
            claims of this evaluation and seed, at the 5 % level.
        p: p-value of Student's paired test over seeds, with Holm's adjustment for the claims of
            this evaluation; 1 for one seed.
    """

    evaluation: str
    higher: str
    lower: str
    differences: tuple[float, ...]
    by_images: tuple[int, ...]
    p: float

    @property
    def name(self) -> str:
        return f"{NAMES[self.higher]} > {NAMES[self.lower]}"

    @property
    def interval(self) -> Interval | None:
        """Student's 95 % interval for the mean difference; None without spread over seeds."""
        return student(self.differences) if _spread(self.differences) else None

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
    found = []
    for (evaluation, branch), order in CLAIMS.items():
        known = [models[norm] for norm in order if norm in models]
        if evaluation != WORST or all(_has_worst(model) for model in known):
            verdicts = {model.norm: _verdicts(model, evaluation, branch) for model in known}
            found += _family(evaluation, verdicts)
    return found


def _family(evaluation: str, verdicts: Mapping[str, Mapping[int, Bits]]) -> list[Claim]:
    """Returns the claims of one evaluation.

    Args:
        evaluation: Its name.
        verdicts: Each norm's verdicts by seed, in the order that the paper claims.
    """
    shared = {
        (higher, lower): [seed for seed in verdicts[higher] if seed in verdicts[lower]]
        for higher, lower in itertools.combinations(verdicts, 2)
    }
    pairs = [pair for pair, seeds in shared.items() if seeds]
    differences = [
        tuple(
            _difference(verdicts[higher][seed], verdicts[lower][seed])
            for seed in shared[higher, lower]
        )
        for higher, lower in pairs
    ]
    by_images: dict[tuple[str, str], list[int]] = {pair: [] for pair in pairs}
    for seed in sorted({seed for seeds in shared.values() for seed in seeds}):
        tested = [pair for pair in pairs if seed in shared[pair]]
        tests = compare(
            [((one, verdicts[one][seed]), (two, verdicts[two][seed])) for one, two in tested]
        )
        for pair, test in zip(tested, tests, strict=True):
            sign = 1 if test.first_only > test.second_only else -1
            by_images[pair].append(sign * test.distinguishable)
    adjusted = holm([_p(each) for each in differences])
    return [
        Claim(evaluation, *pair, each, tuple(by_images[pair]), p)
        for pair, each, p in zip(pairs, differences, adjusted, strict=True)
    ]


def claims_text(records: Sequence[Record]) -> str:
    """Returns a Markdown list of what several seeds say about each claim; "" for one seed."""
    found = [claim for claim in claims(records) if len(claim.differences) > 1]
    worst = {(c.higher, c.lower): mean(c.differences) for c in found if c.evaluation == WORST}
    lines = []
    for claim in found:
        difference, pair = mean(claim.differences), (claim.higher, claim.lower)
        line = (
            f"- {claim.evaluation}, {claim.name}: **{claim.verdict}**, {_points(difference)} "
            f"points {bracketed(claim.interval, scale=100, signed=True) or '(without spread)'} "
            f"over {len(claim.differences)} seeds, {p_text(claim.p)}"
        )
        if claim.evaluation == PGD and pair in worst:
            line += (
                f"; {_points(worst[pair])} in the worst case, to which PGD-20 adds "
                f"{_points(difference - worst[pair])}"
            )
        lines.append(line)
    return "\n".join(lines)


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
                claim.name,
                claim.verdict,
                _points(mean(claim.differences)),
                bracketed(claim.interval, scale=100, signed=True),
                f"{sum(d > 0 for d in claim.differences)} of {len(claim.differences)}",
                f"{claim.by_images.count(1)} for, {claim.by_images.count(-1)} against",
                p_value(claim.p),
                None if flip is None else p_value(flip),
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
            "Seeds significant",
            "p, Holm",
            "p, sign flips",
            "Added by PGD-20",
        ),
        rows,
        [
            "SA: clean branch; RA: adversarial branch. Difference: in points, paired by seed, mean "
            "over seeds. Interval and p: Student's, over seeds, p with Holm's adjustment for the "
            "rows of an evaluation. A claim holds or is contradicted at the 5 % level; otherwise "
            "there is no verdict.",
            "Seeds significant: exact McNemar test on the test images of each seed, with Holm's "
            "adjustment for the rows of an evaluation, at the 5 % level.",
            f"Sign flips: exact permutation test; with {len(found[0].differences)} seeds no p is "
            f"below {2 / 2 ** len(found[0].differences):.3g}.",
            "Added by PGD-20: the difference under PGD-20 minus that in the worst case; PGD-20 "
            "depends on the scale of the logits.",
        ],
    )


def seeds_table(records: Sequence[Record]) -> Table:
    """Returns each model's accuracies, mean and standard deviation over seeds."""
    rows: list[tuple[Cell, ...]] = []
    for model in group(records):
        for evaluation in ("SA", PGD, *[WORST] * _has_worst(model)):
            for branch in dict.fromkeys(model.branch(wanted) for wanted in ("clean", "adv")):
                values = [float(v.mean()) for v in _verdicts(model, evaluation, branch).values()]
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


def _verdicts(model: ModelRecords, evaluation: str, branch: str) -> dict[int, Bits]:
    found = model.correct(evaluation, model.branch(branch))
    return {r.seed: v for r, v in zip(model.records, found, strict=True)}


def _p(differences: Sequence[float]) -> float:
    """Returns the p-value of Student's test; 1 where it is undefined, without spread."""
    return float(ttest_1samp(differences, 0.0).pvalue) if _spread(differences) else 1.0


def _spread(differences: Sequence[float]) -> bool:
    return len(set(differences)) > 1


def _difference(first: Bits, second: Bits) -> float:
    """Returns the difference of two accuracies; the same float for the same number of images."""
    return (int(first.sum()) - int(second.sum())) / len(first)


def _points(difference: float) -> str:
    return f"{100 * difference:+.2f}"

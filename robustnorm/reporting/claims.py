"""Tests the paper's orders of norms; seeds and test images are the samples."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from statistics import mean, stdev
from typing import NamedTuple

import numpy as np

from robustnorm.evaluation.statistics import Interval, sign_flip, student
from robustnorm.records.record import SINGLE, Record
from robustnorm.reporting.comparisons import LEVEL, Comparison, compare
from robustnorm.reporting.model_records import NAMES, WORST, ModelRecords, group
from robustnorm.reporting.paper import PAPER
from robustnorm.reporting.render import Cell, Table, bracketed, p_text, p_value
from robustnorm.system.escaping import for_markdown

PGD = "RA, PGD-20"
# Evaluation, branch, and where the paper has it; it has no worst case.
_EVALUATIONS = (
    ("SA", "clean", PAPER["clean", "SA"]),
    ("SA", "adv", PAPER["adv", "SA"]),
    (PGD, "adv", PAPER["adv", PGD]),
    (WORST, "adv", PAPER["adv", PGD]),
)
# Over seeds, then of the images of one seed.
_VERDICTS = (
    *("holds", "not distinguishable", "contradicted"),
    *("as in the paper", "within noise", "the other way"),
)


class Claim(NamedTuple):
    """The claim that one norm is more accurate than another, and what the results say about it.

    Attributes:
        evaluation: "SA", ``PGD`` or ``WORST``.
        branch: "clean" or "adv".
        higher: The norm that is more accurate in the paper.
        lower: The other norm.
        by_images: For each seed the exact McNemar test on the test images, with Holm's adjustment
            for the claims of this evaluation and seed.
        interval: 95 % interval over seeds and images for the mean difference; None without spread
            over seeds.
        p: p-value over seeds and images, with Holm's adjustment for the claims of this evaluation;
            None for one seed.
    """

    evaluation: str
    branch: str
    higher: str
    lower: str
    by_images: tuple[Comparison, ...]
    interval: Interval | None
    p: float | None

    @property
    def name(self) -> str:
        return f"{NAMES[self.higher]} > {NAMES[self.lower]}"

    @property
    def differences(self) -> list[float]:
        """Accuracy of ``higher`` minus that of ``lower``, for each seed."""
        return [test.difference for test in self.by_images]

    @property
    def verdict(self) -> str:
        """What the seeds say, at the 5 % level; for one seed, what its test images say."""
        as_claimed = mean(self.differences) > 0
        if self.p is None:
            if not self.by_images[0].distinguishable:
                return "within noise"
            return "as in the paper" if as_claimed else "the other way"
        if self.p > LEVEL:
            return "not distinguishable"
        return "holds" if as_claimed else "contradicted"


def claims(records: Sequence[Record]) -> list[Claim]:
    """Returns the claims that the records can test, by evaluation.

    See ``robustnorm.evaluation.statistics.crossed`` for the test. Seeds that one of the norms of an
    evaluation lacks are left out. Branches of other names than the paper's make no claims, nor do
    norms of several configs or checkpoints.

    Args:
        records: Records of one evaluation on the same images.
    """
    repeated = [model for model in group(records) if model.repeats_paper]
    if len({model.remark for model in repeated}) > 1:
        return []
    models = {model.norm: model for model in repeated}
    return [
        claim
        for evaluation, branch, published in _EVALUATIONS
        for claim in _family(
            evaluation,
            branch,
            [models[norm] for norm in _ranked(published) if norm in models],
        )
    ]


def _family(evaluation: str, branch: str, models: Sequence[ModelRecords]) -> Iterator[Claim]:
    """Yields the claims of one evaluation about the models, which are in the paper's order."""
    if evaluation == WORST and not all(map(_has_worst, models)):
        return
    if any(model.branch(branch) not in (branch, SINGLE) for model in models):
        return
    verdicts = {model.norm: model.by_seed(evaluation, branch) for model in models}
    seeds = set.intersection(*map(set, verdicts.values())) if models else set()
    if not seeds:
        return
    by_seed = [
        compare([{norm: of[seed][None] for norm, of in verdicts.items()}]) for seed in sorted(seeds)
    ]
    over_seeds = compare(
        [{norm: np.stack([of[seed] for seed in seeds]) for norm, of in verdicts.items()}]
    )
    for test, *by_images in zip(over_seeds, *by_seed, strict=True):
        interval, p = (test.interval, test.adjusted) if len(seeds) > 1 else (None, None)
        yield Claim(evaluation, branch, test.first, test.second, tuple(by_images), interval, p)


def claims_text(records: Sequence[Record]) -> str:
    """Returns as Markdown what the results say about each claim; "" without two norms."""
    orders = orders_text(records)
    return "\n".join([orders, *_losses(records)]) if orders else ""


def orders_text(records: Sequence[Record]) -> str:
    """Returns as Markdown what the accuracies say about each claim; "" without two norms."""
    found = claims(records)
    if not found:
        return ""
    added, seeds = _added_by_pgd(found), len(found[0].by_images)
    lines = [
        f"The paper's order of the norms over {seeds} seeds and {found[0].by_images[0].n:,} test "
        "images (mean difference in points, 95 % interval; min F' test, for which seeds and images "
        "are both samples, p with Holm's adjustment within each evaluation; 5 % level):\n"
        if seeds > 1
        else "The paper's order of the norms on the test images of one seed, which is no verdict "
        "on the norms (difference in points; exact McNemar test, p with Holm's adjustment within "
        "each evaluation; 5 % level):\n"
    ]
    for (evaluation, branch), of in itertools.groupby(found, lambda c: (c.evaluation, c.branch)):
        family = list(of)
        order = dict.fromkeys(norm for c in family for norm in (c.higher, c.lower))
        names = " > ".join(NAMES[norm] for norm in order)
        where = "in the paper under PGD-20" if evaluation == WORST else "in the paper"
        lines.append(f"- **{evaluation}, {branch} branch**, {where} {names}")
        for verdict in _VERDICTS:
            texts = [_text(claim) for claim in family if claim.verdict == verdict]
            if texts:
                lines.append(f"  - {verdict}: {'; '.join(texts)}")
    if added:
        texts = [f"{claim.name} {_points(points)}" for claim, points in added.items()]
        lines.append(f"- **Added by PGD-20** to the worst case's differences: {'; '.join(texts)}")
    return "\n".join(lines)


def _text(claim: Claim) -> str:
    interval = bracketed(claim.interval, scale=100, signed=True)
    p = claim.by_images[0].adjusted if claim.p is None else claim.p
    numbers = " ".join(filter(None, (_points(mean(claim.differences)), interval)))
    return f"{claim.name} {numbers} ({p_text(p)})"


def _added_by_pgd(found: Sequence[Claim]) -> dict[Claim, float]:
    """Returns by how much PGD-20's differences exceed those in the worst case, where known."""
    worst = {(c.higher, c.lower): mean(c.differences) for c in found if c.evaluation == WORST}
    return {
        c: mean(c.differences) - worst[c.higher, c.lower]
        for c in found
        if c.evaluation == PGD and (c.higher, c.lower) in worst
    }


def _losses(records: Sequence[Record]) -> Iterator[str]:
    """Yields what the last epoch says about Figure 6: lower losses with SaAuxBN than with AuxBN."""
    for loss, branch in (("clean_loss", "clean"), ("adv_loss", "adv")):
        found = {
            (record.norm, record.seed): record.history[-1]["test"][branch][loss]
            for record in records
            if record.adversarial and branch in (record.history or [{}])[-1].get("test", {})
        }
        differences = [
            value - found["auxbn", seed]
            for (norm, seed), value in found.items()
            if norm == "saauxbn" and ("auxbn", seed) in found
        ]
        if not differences or not all(map(math.isfinite, differences)):
            continue
        center, verdict = mean(differences), "difference"
        interval = student(differences) if len(set(differences)) > 1 else None
        if interval:
            verdict = "holds" if center < 0 else "contradicted"
            if interval.low <= 0 <= interval.high:
                verdict = "not distinguishable"
        images = for_markdown(str(records[0].config.get("test_curve", "some")))
        yield (
            f"- **Figure 6, {branch} branch**, in the paper a lower loss with SaAuxBN than with "
            f"AuxBN\n  - {verdict}: {center:+z.3f}"
            + (f" {bracketed(interval, 3, signed=True)}, Student's over seeds" if interval else "")
            + f" (nats on {images} test images, last epoch)"
        )


def claims_table(records: Sequence[Record]) -> Table | None:
    """Returns one row per claim that several seeds test; None if there is none."""
    found = [claim for claim in claims(records) if claim.p is not None]
    if not found:
        return None
    added, seeds = _added_by_pgd(found), len(found[0].by_images)
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
        [_row(claim, added.get(claim)) for claim in found],
        [
            "Difference: in points, mean over seeds. Interval and p: over other seeds and other "
            "test images (Clark's min F': the variance over seeds, of a linear model of norm and "
            "seed, plus that over images), p with Holm's adjustment for the rows of an evaluation. "
            "A claim holds or is contradicted at the 5 % level; otherwise there is no verdict.",
            "Seeds significant: exact McNemar test on the test images of each seed, with Holm's "
            "adjustment for the rows of an evaluation, at the 5 % level.",
            f"Sign flips: exact permutation test; with {seeds} seeds no p is below "
            f"{2 / 2**seeds:.3g}.",
            "Added by PGD-20: the difference under PGD-20 minus that in the worst case; PGD-20 "
            "depends on the scale of the logits.",
        ],
    )


def _row(claim: Claim, added: float | None) -> tuple[Cell, ...]:
    differences = claim.differences
    apart = [test.lead > 0 for test in claim.by_images if test.lead]
    flip = sign_flip(differences)
    return (
        f"{claim.evaluation}, {claim.branch} branch",
        claim.name,
        claim.verdict,
        _points(mean(differences)),
        bracketed(claim.interval, scale=100, signed=True),
        f"{sum(d > 0 for d in differences)} of {len(differences)}",
        f"{apart.count(True)} for, {apart.count(False)} against",
        None if claim.p is None else p_value(claim.p),
        None if flip is None else p_value(flip),
        None if added is None else _points(added),
    )


def seeds_table(records: Sequence[Record]) -> Table:
    """Returns each model's accuracies, mean and standard deviation over seeds."""
    rows: list[tuple[Cell, ...]] = []
    for model in group(records):
        for evaluation in ("SA", PGD, *[WORST] * _has_worst(model)):
            for branch in dict.fromkeys(model.branches("clean") + model.branches("adv")):
                values = [float(v.mean()) for v in model.by_seed(evaluation, branch).values()]
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


def _ranked(published: Mapping[str, float]) -> list[str]:
    return sorted(published, key=lambda norm: -published[norm])


def _points(difference: float) -> str:
    return f"{100 * difference:+z.2f}"

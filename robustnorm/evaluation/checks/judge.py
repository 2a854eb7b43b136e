"""Turns the evidence on one branch into findings, one per check."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise

import torch

from robustnorm.evaluation.checks.binarization import Binarized
from robustnorm.evaluation.checks.forwards import Evidence
from robustnorm.evaluation.checks.measure import RESTARTS, Tier
from robustnorm.evaluation.checks.rules import (
    Finding,
    at_most,
    converged,
    never_above,
    none_may,
    not_below,
    rare,
    small,
)
from robustnorm.evaluation.search import Precision
from robustnorm.models.faithful import TOLERANCE
from robustnorm.records.parts import Check

# A logit is a sum of products of sums: in a deep network, rounding errors reach several hundred
# times the precision of the type. Where logits depend on the other images of the batch, these
# change them by about a tenth.
_ROUNDING = 1000

# The mean squares of training and test images differ by a factor near 1. A normalization that is
# missing or applied twice changes them by a factor of 10 or more.
_SCALE = 4.0
# Accepted drop in accuracy from validation to test images, in addition to chance.
_SHORTFALL = 0.1

_WORST_FIRST = ("unreliable", "warn", "reliable")


def judge(
    evidence: Evidence,
    binarized: Binarized | None,
    steps: int,
    classes: int,
    tier: Tier,
    *,
    recorded: float | None = None,
    precision: Precision = "fp32",
) -> dict[str, Finding]:
    """Returns the finding of each check that applies, by its name in ``CHECKS``.

    Args:
        evidence: Evidence on one branch, for all images.
        binarized: Outcome of the binarization test; None if it was not run.
        steps: Number of steps of the checked attack.
        classes: Number of classes of the network.
        tier: The tier of the evidence.
        recorded: Standard accuracy of the branch recorded in training, None if unknown.
        precision: Precision of the attack's gradients.
    """
    pgd, longer = evidence["pgd"], evidence["longer"]
    again = pgd & torch.stack([evidence[f"restart {i}"] for i in range(1, RESTARTS)]).all(0)
    cross_entropy = longer & again
    white_box = cross_entropy & evidence["margin"]
    radii = [evidence[f"radius {entry}"] for entry in tier.radii]
    transferred = [found for name, found in evidence.items() if name.startswith("from ")]
    rounding = _ROUNDING * torch.finfo(evidence["repeated"].dtype).eps
    findings = {
        "valid perturbations": none_may(
            ~evidence["valid"], "scored outside the ball around them or outside [0, 1]"
        ),
        "repeated forward": small(
            evidence["repeated"], rounding, "change of a logit, relative to the largest logit"
        ),
        "companions": small(
            evidence["among others"], rounding, "change of a logit, relative to the largest logit"
        ),
        "searching copy": small(
            evidence["copy"],
            TOLERANCE[precision].logits,
            "difference of a logit between the network and the copy that PGD follows, on clean or "
            "attacked images, relative to the largest logit",
        ),
        "probabilities": none_may(
            evidence["bounded"] & evidence["bounded"].all(),
            "with all outputs in [0, 1], where this holds for every image",
        ),
        "zero gradients": rare(
            evidence["clean"] & ~evidence["gradient"],
            "classified correctly but without a usable gradient",
        ),
        "loss": converged(
            longer & ~evidence["margin"],
            f"that PGD-{2 * steps} breaks on the margin of the logits but not on the cross-entropy",
        ),
        "FGSM": at_most(
            pgd & ~evidence["fgsm"], 0.01, f"that FGSM breaks but PGD-{steps} does not"
        ),
        "more steps": converged(
            pgd & ~longer, f"that {2 * steps} steps break but {steps} steps do not"
        ),
        "more restarts": converged(
            pgd & ~again, f"that {RESTARTS} random starts of PGD-{steps} break but one does not"
        ),
        "epsilon 0": none_may(
            radii[0] != evidence["clean"], "whose verdict at epsilon 0 differs from the clean one"
        ),
        "larger epsilon": never_above(
            [(after, before) for before, after in pairwise(radii)],
            "accuracy gained from one radius to the next",
        ),
        "unbounded attack": at_most(
            evidence["unbounded"], 1 / classes, "that withstand an unbounded attack"
        ),
        "random noise": rare(
            white_box & ~evidence["noise"], "that random noise breaks but PGD on neither loss does"
        ),
        "Square": at_most(
            white_box & ~evidence["square"],
            0.002,
            "that Square breaks but PGD on neither loss does",
        ),
    }
    if "scale" in evidence:
        findings["input scale"] = small(
            evidence["scale"],
            _SCALE,
            "times larger or smaller than in training, the mean square of the first norm layer's "
            "input",
        )
    if recorded is not None:
        findings["standard accuracy"] = not_below(
            evidence["clean"], recorded, _SHORTFALL, "classified correctly"
        )
    if transferred:
        findings["transfer"] = at_most(
            cross_entropy & ~torch.stack(transferred).all(0),
            0.002,
            "that attacks on other branches break but PGD on this one does not",
        )
        findings["own branch"] = never_above(
            [(longer, other) for other in transferred],
            "accuracy under PGD on this branch minus that under PGD on another",
        )
    if binarized is not None:
        findings["binarization test"] = at_most(
            ~binarized.broken,
            0.05,
            f"with a planted adversarial example that PGD-{steps} missed "
            f"(random points find {100 * float(binarized.random.mean()):.3g})",
        )
    return findings


def verdict_of(checks: Iterable[Check], branch: str) -> str:
    """Returns the worst verdict among the checks of one branch or serving rule.

    Raises:
        ValueError: When it was not checked.

    Examples:
        >>> checks = [Check("FGSM", "adv", v, 0.0, "%", 9) for v in ("reliable", "warn")]
        >>> verdict_of(checks, "adv")
        'warn'
    """
    found = [check.verdict for check in checks if check.answer == branch]
    if not found:
        raise ValueError(f"'{branch}' has not been checked; run the checks on it first")
    return min(found, key=_WORST_FIRST.index)

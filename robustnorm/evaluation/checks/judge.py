"""Turns the evidence on one branch into the findings of the checks."""

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
from robustnorm.records.record import Check

# A logit is a sum of products of sums: in a deep network rounding reaches some hundred times the
# precision of its type. Other images in the batch change the logits of networks that depend on them
# by a tenth.
_ROUNDING = 1000

# The mean squares of training and test images differ by a factor near 1. A normalization that is
# missing or applied twice divides by a variance of 0.1 or less.
_SCALE = 4.0
# Accepted loss of accuracy from validation to test images, besides chance.
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
        binarized: Outcome of the binarization test, if any.
        steps: Number of steps of the checked attack.
        classes: Number of classes of the network.
        tier: The tier of the evidence.
        recorded: Standard accuracy of the branch recorded in training, None if unknown.
        precision: Precision of the attack's gradients.
    """
    pgd, longer = evidence["pgd"], evidence["longer"]
    again = pgd & torch.stack([evidence[f"restart {i}"] for i in range(1, RESTARTS)]).all(0)
    white_box = longer & again
    radii = [evidence[f"radius {place}"] for place in tier.radii]
    transferred = [found for name, found in evidence.items() if name.startswith("from ")]
    rounding = _ROUNDING * torch.finfo(evidence["repeated"].dtype).eps
    findings = {
        "valid perturbations": none_may(
            ~evidence["valid"], "scored outside the ball around them or [0, 1]"
        ),
        "repeated forward": small(
            evidence["repeated"], rounding, "change of a logit, in parts of the largest logit"
        ),
        "companions": small(
            evidence["among others"], rounding, "change of a logit, in parts of the largest logit"
        ),
        "searching copy": small(
            evidence["copy"],
            TOLERANCE[precision].logits,
            "difference of a logit between the network and the copy that PGD climbs, clean or "
            "attacked, in parts of the largest logit",
        ),
        "probabilities": none_may(
            evidence["bounded"] & evidence["bounded"].all(),
            "with outputs in [0, 1] only, as all images have",
        ),
        "zero gradients": rare(
            evidence["clean"] & ~evidence["gradient"], "classified correctly, with no gradient"
        ),
        "loss": converged(
            longer & ~evidence["margin"],
            f"that PGD-{2 * steps} on the margin of the logits breaks and on the cross-entropy "
            "does not",
        ),
        "FGSM": at_most(
            pgd & ~evidence["fgsm"], 0.01, f"that FGSM breaks and PGD-{steps} does not"
        ),
        "more steps": converged(pgd & ~longer, f"that {2 * steps} steps break and {steps} do not"),
        "more restarts": converged(
            pgd & ~again, f"that {RESTARTS} restarts of PGD-{steps} break and 1 does not"
        ),
        "epsilon 0": none_may(radii[0] != evidence["clean"], "with another verdict at epsilon 0"),
        "larger epsilon": never_above(
            [(after, before) for before, after in pairwise(radii)],
            "accuracy won from one radius to the next",
        ),
        "unbounded attack": at_most(
            evidence["unbounded"], 1 / classes, "that withstand an attack without bound"
        ),
        "random noise": rare(
            white_box & ~evidence["noise"], "that random noise breaks and PGD does not"
        ),
        "Square": at_most(
            white_box & ~evidence["square"], 0.002, "that Square breaks and PGD does not"
        ),
    }
    if "scale" in evidence:
        findings["input scale"] = small(
            evidence["scale"],
            _SCALE,
            "times the mean square that the first norm layer saw in training, or that much less",
        )
    if recorded is not None:
        findings["standard accuracy"] = not_below(
            evidence["clean"], recorded, _SHORTFALL, "classified correctly"
        )
    if transferred:
        findings["transfer"] = at_most(
            white_box & ~torch.stack(transferred).all(0),
            0.002,
            "that attacks on other branches break and PGD on this one does not",
        )
        findings["own branch"] = never_above(
            [(longer, other) for other in transferred],
            "accuracy under PGD on this branch less that under PGD on another",
        )
    if binarized is not None:
        findings["binarization test"] = at_most(
            ~binarized.broken,
            0.05,
            f"with a planted adversarial example that PGD-{steps} missed "
            f"(random points find {100 * float(binarized.random.mean()):.3g})",
        )
    return findings


def verdict_of(checks: Iterable[Check], answer: str) -> str:
    """Returns the worst verdict of one branch's or serving rule's checks.

    Raises:
        ValueError: When it was not checked.

    Examples:
        >>> checks = [Check("FGSM", "adv", v, 0.0, "%", 9) for v in ("reliable", "warn")]
        >>> verdict_of(checks, "adv")
        'warn'
    """
    found = [check.verdict for check in checks if check.answer == answer]
    if not found:
        raise ValueError(f"the checks hold none of '{answer}'; run them on it first")
    return min(found, key=_WORST_FIRST.index)

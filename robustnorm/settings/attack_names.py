"""The names of the attacks of an evaluation: what a user types and a verdict says; no torch."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from typing import Literal, NamedTuple

GRAMMAR = (
    "An attack is fgsm; pgd-STEPS or pgd-STEPSxRESTARTS, then -margin or -dlr for another loss and "
    "-targeted for each of the likeliest wrong classes in turn; autoattack, apgd-ce, apgd-t, fab-t "
    "or square, AutoAttack's authors' code; or torchattacks:CLASS."
)
# AutoAttack's standard ensemble, and each of its parts alone.
_AUTOATTACK = ("autoattack", "apgd-ce", "apgd-t", "fab-t", "square")
_PGD = re.compile(r"pgd-([1-9]\d*)(?:x([1-9]\d*))?(?:-(margin|dlr))?(-targeted)?")
_EXAMPLES = (
    *("fgsm", *_AUTOATTACK),
    *(f"pgd-50{restarts}{loss}{targeted}" for restarts in ("", "x5")
      for loss in ("", "-margin", "-dlr") for targeted in ("", "-targeted")),
)  # fmt: skip


class EvaluationAttack(NamedTuple):
    """An attack of an evaluation.

    Args:
        name: As the user typed it.
        kind: Whose code it is: ours, AutoAttack's or torchattacks'.
        steps: Of PGD.
        restarts: Of PGD.
        loss: Of PGD, as in ``robustnorm.attacks.pgd``.
        targeted: Whether PGD aims at each of the likeliest wrong classes in turn.
        part: The one attack of AutoAttack's ensemble, or the class of torchattacks; "" for all.
        least_classes: Classes that a network must have for it.
    """

    name: str
    kind: Literal["fgsm", "pgd", "autoattack", "torchattacks"]
    steps: int = 1
    restarts: int = 1
    loss: str = "ce"
    targeted: bool = False
    part: str = ""
    least_classes: int = 2


def parse_attacks(names: Sequence[str]) -> list[EvaluationAttack]:
    """Returns the attacks of those names, each once.

    Raises:
        ValueError: On a name that is none, with the grammar and the nearest.

    Examples:
        >>> [attack] = parse_attacks(["pgd-50x5-margin"])
        >>> attack.steps, attack.restarts, attack.loss, attack.targeted
        (50, 5, 'margin', False)
    """
    return [_parse(name) for name in dict.fromkeys(names)]


def _parse(name: str) -> EvaluationAttack:
    if name == "fgsm":
        return EvaluationAttack(name, "fgsm")
    if name in _AUTOATTACK:
        # Its targeted attacks aim at nine wrong classes, whatever the network has.
        least = 2 if name in ("apgd-ce", "square") else 10
        part = "" if name == "autoattack" else name
        return EvaluationAttack(name, "autoattack", part=part, least_classes=least)
    library, _, part = name.partition(":")
    if library == "torchattacks" and part.isidentifier():
        return EvaluationAttack(name, "torchattacks", part=part)
    match = _PGD.fullmatch(name)
    if match is None:
        nearest = difflib.get_close_matches(name.lower(), _EXAMPLES, n=1, cutoff=0.5)
        hint = f"; did you mean '{nearest[0]}'?" if nearest else "."
        raise ValueError(f"unknown attack '{name}'{hint} {GRAMMAR}")
    steps, restarts, loss, targeted = match.groups()
    least = {"dlr": 4 if targeted else 3}.get(loss, 2)
    return EvaluationAttack(
        name,
        "pgd",
        steps=int(steps),
        restarts=int(restarts or 1),
        loss=loss or "ce",
        targeted=targeted is not None,
        least_classes=least,
    )

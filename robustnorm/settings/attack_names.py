"""Names of an evaluation's attacks, as typed by users and stored with verdicts; no torch."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

from robustnorm.attacks import ATTACKS

# The attacks in AutoAttack's standard ensemble, also available individually.
_ENSEMBLE = ("apgd-ce", "apgd-t", "fab-t", "square")
_PGD = re.compile(r"pgd-([1-9]\d*)(?:x([1-9]\d*))?(?:-(margin|dlr))?(-targeted)?")
# Classes that the loss of AutoAttack's targeted attack requires.
_LEAST_CLASSES = {"autoattack": 4, "apgd-t": 4}
_WITH_OPTIONS = ("pgd", "torchattack")


class EvaluationAttack(NamedTuple):
    """An attack of an evaluation.

    Args:
        name: As the user typed it.
        function: Its name in ``robustnorm.attacks.ATTACKS``.
        options: Its options besides radius and threat model.
        restarts: Number of random starts of PGD.
        targeted: Whether PGD targets each of the likeliest wrong classes in turn.
        least_classes: Smallest number of classes that it supports.
    """

    name: str
    function: str
    options: Mapping[str, Any] = MappingProxyType({})
    restarts: int = 1
    targeted: bool = False
    least_classes: int = 2


def grammar() -> str:
    """Describes the valid names of attacks in a sentence."""
    return (
        f"An attack is {', '.join(_without_options())}; pgd-STEPS or pgd-STEPSxRESTARTS, then "
        "-margin or -dlr for another loss and -targeted for each of the likeliest wrong classes in "
        f"turn; {', '.join(_ENSEMBLE)}, attacks of AutoAttack; or torchattacks:CLASS."
    )


def parse_attacks(names: Sequence[str]) -> list[EvaluationAttack]:
    """Parses names of attacks and drops duplicates.

    Raises:
        ValueError: On an unknown name; the message lists the valid names and the nearest one.

    Examples:
        >>> [attack] = parse_attacks(["pgd-50x5-margin"])
        >>> attack.options, attack.restarts, attack.targeted
        ({'steps': 50, 'loss': 'margin'}, 5, False)
    """
    return [_parse(name) for name in dict.fromkeys(names)]


def _parse(name: str) -> EvaluationAttack:
    if name in _without_options():
        return EvaluationAttack(name, name, least_classes=_LEAST_CLASSES.get(name, 2))
    if name in _ENSEMBLE:
        least = _LEAST_CLASSES.get(name, 2)
        return EvaluationAttack(
            name, "autoattack", {"attacks_to_run": (name,)}, least_classes=least
        )
    library, _, class_name = name.partition(":")
    if library == "torchattacks" and class_name.isidentifier():
        return EvaluationAttack(name, "torchattack", {"name": class_name})
    match = _PGD.fullmatch(name)
    if match is None:
        known = [*_without_options(), *_ENSEMBLE, *_pgd_examples()]
        nearest = difflib.get_close_matches(name.lower(), known, n=1, cutoff=0.5)
        hint = f"; did you mean '{nearest[0]}'?" if nearest else "."
        raise ValueError(f"unknown attack '{name}'{hint} {grammar()}")
    steps, restarts, loss, targeted = match.groups()
    return EvaluationAttack(
        name,
        "pgd",
        {"steps": int(steps), "loss": loss or "ce"},
        restarts=int(restarts or 1),
        targeted=targeted is not None,
        least_classes={"dlr": 4 if targeted else 3}.get(loss, 2),
    )


def _without_options() -> list[str]:
    """Returns the attacks that take no options."""
    return [name for name in ATTACKS if name not in _WITH_OPTIONS]


def _pgd_examples() -> list[str]:
    return [
        f"pgd-50{restarts}{loss}{targeted}"
        for restarts in ("", "x5")
        for loss in ("", "-margin", "-dlr")
        for targeted in ("", "-targeted")
    ]

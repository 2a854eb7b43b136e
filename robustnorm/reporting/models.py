"""Records grouped into what a table compares: a norm trained one way, over its seeds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from robustnorm.evaluation.records import SINGLE, Record, RecordError, Verdict

NAMES = {
    "bn": "BN",
    "modenorm": "ModeNorm",
    "auxbn": "AuxBN",
    "saauxbn": "SaAuxBN",
    "auxstatbn": "AuxStatBN",
    "ccbn": "CCBN",
    "sabn": "SaBN",
}
ATTACKS = {
    "SA": "none",
    "RA, PGD-10": "pgd-10",
    "RA, PGD-20": "pgd-20",
    "RA, AutoAttack": "autoattack",
}
WORST = "RA, worst case"
LAST = "pgd-20"


@dataclass(frozen=True)
class Model:
    """The records of one norm and one way of training, a record a seed."""

    norm: str
    adversarial: bool
    records: list[Record]

    @property
    def name(self) -> str:
        name = NAMES.get(self.norm, self.norm)
        return name if self.adversarial else f"{name}, plain (control)"

    def branch(self, wanted: str) -> str:
        return wanted if wanted in self.records[0].branches else SINGLE

    def label(self, wanted: str) -> str:
        branch = self.branch(wanted)
        return self.name if branch == SINGLE else f"{self.name} ({branch})"

    def verdicts(self, attack: str, rule: str, attacker: str, scorer: str) -> list[Verdict]:
        return [record.find(attack, rule, attacker, scorer) for record in self.records]

    def accuracies(self, evaluation: str, place: str) -> list[float]:
        """Returns the accuracy of each record: final images of its own attack, or the worst case.

        Args:
            evaluation: A key of ``ATTACKS`` or an entry of ``further``.
            place: The branch that is attacked and scores.
        """
        if evaluation == WORST:
            return [float(record.worst_case(place).mean()) for record in self.records]
        attack = ATTACKS.get(evaluation, evaluation.removeprefix("RA, "))
        return [v.accuracy for v in self.verdicts(attack, "final", place, place)]


def named_attacks(record: Record) -> list[str]:
    """Returns the attacks that ran besides PGD-10 and PGD-20, transfers left out."""
    ran = dict.fromkeys(verdict.attack for verdict in record.verdicts)
    usual = ("none", "pgd-10", LAST)
    return [name for name in ran if name not in usual and not name.startswith("transfer:")]


def further(record: Record) -> list[str]:
    """Returns the evaluations that the paper does not have: named attacks, then the worst case."""
    if all(verdict.attack in ("none", "pgd-10", LAST) for verdict in record.verdicts):
        return []
    labels = {attack: evaluation for evaluation, attack in ATTACKS.items()}
    return [*(labels.get(name, f"RA, {name}") for name in named_attacks(record)), WORST]


def group(records: Sequence[Record]) -> list[Model]:
    """Returns the models: the paper's norms in its order, other norms, then controls."""
    order = list(NAMES)
    groups: dict[tuple[str, bool], list[Record]] = {}
    for record in sorted(records, key=lambda record: record.seed):
        groups.setdefault((record.norm, record.adversarial), []).append(record)
    return sorted(
        (Model(norm, adversarial, members) for (norm, adversarial), members in groups.items()),
        key=lambda model: (
            not model.adversarial,
            order.index(model.norm) if model.norm in order else len(order),
            model.norm,
        ),
    )


def check_comparable(records: Sequence[Record]) -> None:
    """Raises a RecordError unless the records are of one evaluation."""
    if not records:
        raise RecordError("tables need at least one result record; run an evaluation first")
    first = records[0]
    for record in records[1:]:
        for what, mine, other in (
            ("test images", first.image_ids, record.image_ids),
            ("data", first.dataset["sha256"], record.dataset["sha256"]),
            ("protocols", first.protocol_hash, record.protocol_hash),
        ):
            if mine != other:
                raise RecordError(
                    f"one table needs one evaluation, got different {what} for {first.norm} seed "
                    f"{first.seed} and {record.norm} seed {record.seed}; evaluate them together"
                )

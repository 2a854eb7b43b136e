"""Groups records by model: a norm trained in one way, with one or more seeds."""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from statistics import mean
from typing import Any

from robustnorm.records.bits import Bits
from robustnorm.records.record import SINGLE, TRANSFER, Record, RecordError, Verdict

NAMES = {
    "bn": "BN",
    "modenorm": "ModeNorm",
    "auxbn": "AuxBN",
    "saauxbn": "SaAuxBN",
    "auxstatbn": "AuxStatBN",
    "ccbn": "CCBN",
    "sabn": "SaBN",
}
EVALUATIONS = {
    "SA": "none",
    "RA, PGD-10": "pgd-10",
    "RA, PGD-20": "pgd-20",
    "RA, AutoAttack": "autoattack",
}
WORST = "RA, worst case"
# Suffix of the name of an evaluation whose verdict counts every iterate.
ANY = ", any iterate"
PGD_20 = "pgd-20"


# Fields of a protocol that describe training, or checks; evaluations that differ in them are
# comparable.
_NO_ATTACK = frozenset({"name", "train_steps", "attack_norm_mode", "checks"})


@dataclass(frozen=True)
class ModelRecords:
    """The records of one norm trained in one way, one record per seed.

    Args:
        norm: As ``Config.norm``.
        adversarial: False for a control trained without attacks.
        records: One per seed.
        remark: Distinguishes models with the same norm: config, checkpoint and origin where they
            differ.
        title: Name in reports; by default made from norm and remark.
        attacks: Attacks that count in the worst case, if the models compared have run others
            besides; all by default.
    """

    norm: str
    adversarial: bool
    records: list[Record]
    remark: str = ""
    title: str = ""
    attacks: frozenset[str] | None = None

    @property
    def name(self) -> str:
        if self.title:
            return self.title
        name = NAMES.get(self.norm, self.norm)
        return ", ".join(
            filter(None, (name, self.remark, "" if self.adversarial else "plain (control)"))
        )

    @property
    def repeats_paper(self) -> bool:
        """Whether it is a norm trained here with attacks, as in the paper."""
        return self.adversarial and self.records[0].is_ours

    @property
    def counted(self) -> list[Verdict]:
        """The verdicts of the first seed that count in the worst case, of all branches."""
        verdicts = self.records[0].verdicts
        return [v for v in verdicts if self.attacks is None or v.attack in self.attacks]

    def branches(self, wanted: str) -> tuple[str, ...]:
        """Returns the branches that a table shows as "clean" or "adv".

        If no branch is named "clean", this is the first one; if none is named "adv", these are all
        others. A network with one branch shows that one.
        """
        branches = self.records[0].branches
        if wanted in branches:
            return (wanted,)
        clean = "clean" if "clean" in branches else branches[0]
        others = tuple(name for name in branches if name != clean)
        return (clean,) if wanted == "clean" else others or branches

    def branch(self, wanted: str) -> str:
        return self.branches(wanted)[0]

    def label(self, wanted: str) -> str:
        branch = self.branch(wanted)
        return self.name if branch == SINGLE else f"{self.name} ({branch})"

    def verdicts(self, attack: str, rule: str, attacker: str, scorer: str) -> list[Verdict]:
        return [record.find(attack, rule, attacker, scorer) for record in self.records]

    def margin(self, branch: str) -> str | None:
        """Returns a branch's median logit margin, averaged over seeds; None for old records."""
        margins = [record.margins[branch] for record in self.records if branch in record.margins]
        return f"{mean(margins):.2f}" if len(margins) == len(self.records) else None

    def correct(self, evaluation: str, branch: str) -> list[Bits]:
        """Returns each record's verdicts under an attack, or in the worst case.

        Args:
            evaluation: ``WORST``, or an attack and a rule as ``evaluation_of`` names them.
            branch: The branch that is attacked and that scores.

        Returns:
            bool (n,) per record.
        """
        if evaluation == WORST:
            return [record.worst_case(branch, self.attacks) for record in self.records]
        rule = "any" if evaluation.endswith(ANY) else "final"
        name = evaluation.removesuffix(ANY)
        attack = EVALUATIONS.get(name, re.sub("^PGD-", "pgd-", name.removeprefix("RA, ")))
        return [verdict.correct for verdict in self.verdicts(attack, rule, branch, branch)]

    def by_seed(self, evaluation: str, wanted: str) -> dict[int, Bits]:
        """Returns the verdicts of ``correct`` by seed, on the branch that ``branch`` names."""
        found = self.correct(evaluation, self.branch(wanted))
        return {record.seed: each for record, each in zip(self.records, found, strict=True)}

    def ball(self, evaluation: str, branch: str) -> tuple[str, Fraction] | None:
        """Returns threat model and radius of an evaluation of a branch; None for clean images.

        Radii that differ only by rounding, such as 8/255 and 0.03137255, are the same.
        """
        threat_model, radius = self.records[0].ball(branch)
        return None if evaluation == "SA" else (threat_model, radius.limit_denominator(10_000))

    def worst(self, branch: str) -> float | None:
        """Returns a branch's mean accuracy in the worst case; None if only PGD was run."""
        if not has_worst([self]):
            return None
        return mean(float(correct.mean()) for correct in self.correct(WORST, branch))


def evaluation_of(attack: str, rule: str = "final") -> str:
    """Returns the name of an attack's verdicts in tables.

    Examples:
        >>> evaluation_of("none"), evaluation_of("pgd-5", "any"), evaluation_of("fgsm")
        ('SA', 'RA, PGD-5, any iterate', 'RA, fgsm')
    """
    names = {named: evaluation for evaluation, named in EVALUATIONS.items()}
    pgd = re.sub(r"^pgd-(?=\d+$)", "PGD-", attack)
    return names.get(attack, f"RA, {pgd}") + (ANY if rule == "any" else "")


def has_worst(models: Sequence[ModelRecords]) -> bool:
    """Returns whether every record has attacks beyond the paper's PGD."""
    return all(named_attacks(record) for model in models for record in model.records)


def named_attacks(record: Record) -> list[str]:
    """Returns the attacks of a record besides PGD-10, PGD-20 and transfers."""
    return named_among(record.verdicts)


def named_among(verdicts: Sequence[Verdict]) -> list[str]:
    """Returns the attacks of some verdicts besides PGD-10, PGD-20 and transfers."""
    attacks = dict.fromkeys(verdict.attack for verdict in verdicts)
    usual = ("none", "pgd-10", PGD_20)
    return [name for name in attacks if name not in usual and not name.startswith(TRANSFER)]


def beyond_pgd(verdicts: Sequence[Verdict]) -> bool:
    """Returns whether there are attacks besides PGD, which has a worst case of its own: "any"."""
    return any(not re.fullmatch(r"none|pgd-\d+", verdict.attack) for verdict in verdicts)


def has_transfers(record: Record) -> bool:
    """Returns whether images made against other runs were scored."""
    return any(verdict.attack.startswith(TRANSFER) for verdict in record.verdicts)


def further_evaluations(record: Record) -> list[str]:
    """Returns the evaluations that the paper does not have: named attacks, then the worst case.

    The attack ``worst`` only attacks what the others left, so it counts in the worst case and has
    no row of its own.
    """
    named = named_attacks(record)
    labels = {attack: evaluation for evaluation, attack in EVALUATIONS.items()}
    rows = [labels.get(name, f"RA, {name}") for name in named if name != "worst"]
    return [*rows, WORST] if named or has_transfers(record) else []


def group(records: Sequence[Record]) -> list[ModelRecords]:
    """Groups records into models: the paper's norms in its order, other norms, then controls.

    Networks from elsewhere are no seeds of ours, nor weights those of a file of another name.
    """
    order = list(NAMES)
    several_configs = len({record.name for record in records}) > 1
    several_tags = len({record.checkpoint["tag"] for record in records}) > 1
    several_origins = len({record.imported or record.given for record in records}) > 1
    groups: dict[tuple[bool, int, str, str], list[Record]] = {}
    for record in sorted(records, key=lambda record: record.seed):
        rank = order.index(record.norm) if record.norm in order else len(order)
        remark = ", ".join(
            [record.name] * several_configs
            + [str(record.checkpoint["tag"])] * several_tags
            + [record.imported or record.given] * (several_origins and not record.is_ours)
        )
        key = (not record.adversarial, rank, record.norm, remark)
        groups.setdefault(key, []).append(record)
    return [
        ModelRecords(norm, not control, groups[key], remark)
        for key in sorted(groups)
        for control, _, norm, remark in [key]
    ]


def check_comparable(records: Sequence[Record]) -> None:
    """Raises a RecordError unless the records are of one evaluation and of different runs."""
    if not records:
        raise RecordError("tables need at least one result record; run an evaluation first")
    first = records[0]
    for record in records[1:]:
        for what, one, other in (
            ("test images", first.image_ids, record.image_ids),
            ("data", first.dataset["sha256"], record.dataset["sha256"]),
            ("protocols", _attack(first), _attack(record)),
        ):
            if one != other:
                raise RecordError(
                    f"a table needs records of one evaluation, got different {what} for "
                    f"{first.norm} seed {first.seed} and {record.norm} seed {record.seed} "
                    f"({_origin(first)}; {_origin(record)}){_differing_settings(one, other)}; "
                    "evaluate them together, or name the records to show, as in robustnorm report "
                    "FILE ..."
                )
    for model in group(records):
        for one, other in itertools.pairwise(model.records):
            if one.seed == other.seed:
                raise RecordError(
                    f"each run may be given once, got two records of {model.name}, seed {one.seed}"
                )


def _origin(record: Record) -> str:
    return f"checkpoint '{record.checkpoint['tag']}', {record.n:,} images"


def _attack(record: Record) -> dict[str, Any]:
    return {key: value for key, value in record.protocol.items() if key not in _NO_ATTACK}


def _differing_settings(one: object, other: object) -> str:
    if not isinstance(one, dict) or not isinstance(other, dict):
        return ""
    differing = [key for key in one | other if one.get(key) != other.get(key)]
    return f" ({', '.join(f'{key}: {one.get(key)}, {other.get(key)}' for key in differing)})"

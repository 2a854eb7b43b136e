"""Result records: one JSON file per evaluated checkpoint, with every verdict."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection
from dataclasses import asdict, dataclass, field, fields
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from robustnorm.models.serving import RULES
from robustnorm.records.bits import (
    Bits,
    deflate_bits,
    deflate_labels,
    inflate_bits,
    inflate_labels,
)
from robustnorm.records.parts import Check, CurvePoint, Example
from robustnorm.records.validation import check_content, check_indices, check_size
from robustnorm.system.errors import RefusedFileError, UsageError
from robustnorm.system.files import write_atomically
from robustnorm.system.sealed import seal, unseal
from robustnorm.system.untrusted import parse_json

_SCHEMA = 2
# The branch of a network without branches.
SINGLE = "single"
# Prefix of the name of an "attack" with images that were made against another run.
TRANSFER = "transfer:"


class RecordError(RefusedFileError):
    """A result record cannot be read."""


@dataclass(frozen=True, eq=False)
class Verdict:
    """Whether each image was classified correctly under one attack.

    Args:
        attack: "none", "pgd-k" for k steps, another name of an attack, or "transfer:" and the
            folder of the run against which the images were made.
        rule: "final": the image that the attack returned is correct; or "any": it, the clean image
            and all iterates are.
        attack_branch: The attacked branch; ``SINGLE`` in a network without branches. For a transfer
            it is a branch of the other network.
        score_branch: The branch that gave the verdict.
        correct: bool (n,), in the order of the record's image ids.
        disagreements: Number of images on which the attack's copy of the network disagreed.
        searched: Where gradients came from: "copy", a fast copy; "network", if no copy computes the
            same as the network; "nothing", if the network has no gradient.
        forward: Forward passes of the attack, in images; see ``robustnorm.attacks.passes``. 0
            without an attack, and in records of versions that did not count passes.
        backward: Backward passes of the attack, in images.
    """

    attack: str
    rule: str
    attack_branch: str
    score_branch: str
    correct: Bits
    disagreements: int = 0
    searched: str = "copy"
    forward: int = 0
    backward: int = 0

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Verdict):
            return NotImplemented
        mine, theirs = dict(vars(self)), dict(vars(other))
        same = np.array_equal(mine.pop("correct"), theirs.pop("correct"))
        return same and mine == theirs

    __hash__ = None  # type: ignore[assignment]  # like any other class with arrays

    @property
    def accuracy(self) -> float:
        """Fraction of images classified correctly."""
        return float(self.correct.mean())


@dataclass(frozen=True)
class Record:
    """The evaluation of a checkpoint: network, settings and every verdict.

    Args:
        name: Name of the config.
        norm: As ``Config.norm``.
        seed: Seed of the training run.
        adversarial: False for a control trained on clean images.
        checkpoint: tag, epoch, epochs (planned) and sha256. For weights trained by other code also
            "imported", their file's name, sha256 and layout; for a network that was given to
            ``evaluate`` in Python "given", its class. Both epochs are then 0, and only the config's
            settings of the network apply, or none. For a network from other code also
            "network_source": the version of timm, or the module's file and sha256.
        config: The settings that determined the training run.
        config_hash: Fingerprint of those.
        history: One entry per epoch, as ``EpochRecord.to_dict``, up to the last epoch of the run.
        dataset: name, sha256, classes, train_images and test_images; for a network given in Python
            also "images", the hash of those evaluated. If the data were only named there, that is
            also their sha256, and test_images is the least number that there can be.
        image_ids: Indices of the evaluated images in the test set.
        labels: Their classes, as indices into ``dataset["classes"]``.
        protocol: The evaluation's settings.
        protocol_hash: Fingerprint of those.
        verdicts: One per attack, rule and pair of branches.
        checks: Checks of the evaluation; empty if not requested.
        curve: Accuracy by radius of the attack; empty if not requested.
        examples: A few images before and after the attack.
        versions: Versions of Python and the relevant packages.
        device: Name of the device.
        wall_seconds: Duration of the evaluation.
        images: Where the adversarial images are kept: "folder" beside the record, and "files", name
            and sha256 of each file. Empty if none are kept.
        sources: Folder and checkpoint's sha256 of each run whose images were transferred.
        margins: Median logit margin of the clean images, by branch or serving rule; empty in older
            records.
        sealed: Whether its file carries a hash of the content; older records have none.
    """

    name: str
    norm: str
    seed: int
    adversarial: bool
    checkpoint: dict[str, Any]
    config: dict[str, Any]
    config_hash: str
    history: list[dict[str, Any]]
    dataset: dict[str, Any]
    image_ids: list[int]
    labels: list[int]
    protocol: dict[str, Any]
    protocol_hash: str
    verdicts: list[Verdict]
    checks: list[Check]
    curve: list[CurvePoint]
    examples: list[Example]
    versions: dict[str, str]
    device: str
    wall_seconds: float
    images: dict[str, Any] = field(default_factory=dict)
    sources: dict[str, str] = field(default_factory=dict)
    margins: dict[str, float] = field(default_factory=dict)
    sealed: bool = field(default=True, compare=False)

    @property
    def imported(self) -> str:
        """Name of the file of weights trained by other code, else ""."""
        return str(self.checkpoint.get("imported", {}).get("file", ""))

    @property
    def given(self) -> str:
        """Class of a network that was given in Python, else ""."""
        return str(self.checkpoint.get("given", ""))

    @property
    def is_ours(self) -> bool:
        """Whether this package trained the network, so that its training is known."""
        return not (self.imported or self.given)

    @property
    def n(self) -> int:
        """Number of evaluated images."""
        return len(self.image_ids)

    @property
    def sample(self) -> str:
        """Number of evaluated images, and of how many if that is known, as people write it."""
        data = self.dataset
        if data.get("images") == data["sha256"]:  # given in Python under a name
            return f"{self.n:,}"
        return f"{self.n:,} of {data['test_images']:,}"

    @property
    def branches(self) -> tuple[str, ...]:
        """Names of the branches in order, without serving rules."""
        return tuple(name for name in self.answers if name not in RULES)

    @property
    def answers(self) -> tuple[str, ...]:
        """Names of everything attacked and scored: the branches, then the serving rules."""
        return tuple(v.score_branch for v in self.verdicts if v.attack == "none")

    def attack_on(self, answer: str) -> dict[str, Any]:
        """Returns threat_model, epsilon and step_size of the attacks on a branch or serving rule.

        A branch without an attack, such as "clean", and a serving rule, which may use any branch,
        are attacked like the first adversarial branch.
        """
        attack: dict[str, Any] = self.protocol.get("branches", {}).get(answer, self.protocol)
        return attack

    def ball(self, answer: str) -> tuple[str, Fraction]:
        """Returns the threat model and the radius of the attacks on a branch or serving rule."""
        attack = self.attack_on(answer)
        return attack["threat_model"], Fraction(attack["epsilon"])

    def has(self, attack: str) -> bool:
        """Returns whether the attack was run."""
        return any(verdict.attack == attack for verdict in self.verdicts)

    def worst_case(self, answer: str, attacks: Collection[str] | None = None) -> Bits:
        """Returns for each image whether it withstands everything that was run, bool (n,).

        Args:
            answer: The branch or serving rule that scores. All its verdicts count whose images are
                in its own ball: on clean images, on attacks on itself and on others, on final
                images and on any iterate. Images of another threat model do not count, nor those
                of a larger radius.
            attacks: Names of the attacks that count; all by default.
        """
        threat_model, epsilon = self.ball(answer)
        withstood = np.ones(self.n, bool)
        for verdict in self.verdicts:
            threat, radius = self.ball(verdict.attack_branch)
            inside = verdict.attack == "none" or (
                threat == threat_model
                and radius <= epsilon
                and (attacks is None or verdict.attack in attacks)
            )
            if verdict.score_branch == answer and inside:
                withstood &= verdict.correct
        return withstood

    def find(self, attack: str, rule: str, attack_branch: str, score_branch: str) -> Verdict:
        """Returns one verdict.

        Raises:
            RecordError: When the record has no such verdict.
        """
        wanted = (attack, rule, attack_branch, score_branch)
        for v in self.verdicts:
            if (v.attack, v.rule, v.attack_branch, v.score_branch) == wanted:
                return v
        raise RecordError(
            f"the record of {self.norm} seed {self.seed} has no verdict of attack {attack} "
            f"({rule}) through {attack_branch}, scored by {score_branch}; evaluate again"
        )

    def to_json(self) -> str:
        """Returns the record as JSON; labels and packed verdicts are compressed."""
        content = {each.name: getattr(self, each.name) for each in fields(self)}
        everything = self.image_ids == list(range(self.n))
        content["image_ids"] = self.n if everything else self.image_ids
        content["labels"] = deflate_labels(self.labels, self.dataset["classes"])
        for name in _LISTS:
            content[name] = [asdict(entry) for entry in content[name]]
        content["verdicts"] = [
            asdict(verdict)
            | {"correct": deflate_bits(verdict.correct), "count": int(verdict.correct.sum())}
            for verdict in self.verdicts
        ]
        del content["sealed"]
        return json.dumps(seal({"schema": _SCHEMA} | content), indent=1) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Record:
        """Restores the result of ``to_json``.

        Raises:
            RecordError: On anything else.
        """
        try:
            content, sealed = unseal(parse_json(text))
            if content.get("schema") != _SCHEMA:
                raise RecordError(f"its schema is not {_SCHEMA}")
            check_content(content)
            del content["schema"]
            content["sealed"] = sealed
            ids = content["image_ids"]
            n = ids if isinstance(ids, int) else len(ids)
            check_size(n, len(content["verdicts"]), len(text))
            content["labels"] = inflate_labels(content["labels"], n, content["dataset"]["classes"])
            content["image_ids"] = list(range(n)) if isinstance(ids, int) else ids
            check_indices(content)
            for name, kind in _LISTS.items():
                content[name] = [kind(**entry) for entry in content[name]]
            verdicts = []
            for entry in content["verdicts"]:
                correct = inflate_bits(entry.pop("correct"), n)
                if entry.pop("count") != correct.sum():
                    raise RecordError("a verdict's bits do not match its count")
                verdicts.append(Verdict(**entry, correct=correct))
            return cls(**content | {"verdicts": verdicts})
        except RecordError:
            raise
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise RecordError(f"it is damaged ({type(error).__name__}: {error})") from error

    def save(self, path: Path) -> None:
        """Writes the record atomically."""
        write_atomically(path, self.to_json().encode(), shared=True)

    @classmethod
    def load(cls, path: Path) -> Record:
        """Reads a record.

        Raises:
            UsageError: When there is no such file.
            RecordError: When it is not a record.
        """
        try:
            return cls.from_json(path.read_text())
        except FileNotFoundError as error:
            raise UsageError(f"there is no result record {path}; evaluate first") from error
        except (RecordError, OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or error
            raise RecordError(
                f"{path} is not a result record: {reason}; if robustnorm eval wrote it, remove it "
                "and evaluate again, else name another file"
            ) from error


# Fields of a record that are lists of plain values.
_LISTS: dict[str, type[Any]] = {"checks": Check, "curve": CurvePoint, "examples": Example}


def fingerprint(content: dict[str, Any]) -> str:
    """Returns a hash of plain values, 16 hex digits, independent of the order of keys."""
    canonical = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()[:16]

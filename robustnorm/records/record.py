"""Result records: one JSON file per evaluated checkpoint, verdict by verdict."""

from __future__ import annotations

import base64
import hashlib
import json
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from robustnorm.models.serving import RULES
from robustnorm.system.errors import RefusedFileError, UsageError
from robustnorm.system.files import write_atomically
from robustnorm.system.untrusted import is_inside, is_name, parse_json

_SCHEMA = 2
# The branch of a network that has none.
SINGLE = "single"
# Begins the name of an attack whose images were made against another run.
TRANSFER = "transfer:"

Bits = NDArray[np.bool_]


class RecordError(RefusedFileError):
    """A result record cannot be read; the message names the file and the repair."""


@dataclass(frozen=True)
class Verdict:
    """Whether each image was classified correctly under one attack.

    Args:
        attack: "none", "pgd-k" for k steps, another name that a user may type, or
            "transfer:" and the folder of the run whose images these are.
        rule: "final", the image that the attack returned, or "any", no image or iterate on its way
            was misclassified.
        attack_branch: The branch that the attack saw; ``SINGLE`` on a network without branches.
            Of a transfer it is a branch of the other network.
        score_branch: The branch that gave the verdict.
        correct: bool (n,), in the order of the record's image ids.
        disagreements: Images on which the copy that searched for the attack judged otherwise.
        searched: "copy", or "network" where no copy is shown to compute what the network does: the
            network itself was then attacked.
        forward: Images that passed the network in the attack; see ``robustnorm.attacks.passes``. 0
            where nothing was attacked, and in records from before passes were counted.
        backward: Images that passed it back, for their gradients.
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

    @property
    def accuracy(self) -> float:
        """Fraction of images classified correctly."""
        return float(self.correct.mean())


@dataclass(frozen=True)
class Check:
    """What one check of the evaluation itself found, for one branch or serving rule.

    Args:
        name: Of the check, a key of ``robustnorm.evaluation.checks.CHECKS``.
        answer: The branch or rule that was checked.
        verdict: "reliable", "warn" or "unreliable".
        value: The figure behind the verdict, in the unit that ``figure`` names.
        figure: What the value is, with its limits, in words.
        n: Images that it was measured on.
    """

    name: str
    answer: str
    verdict: str
    value: float
    figure: str
    n: int


@dataclass(frozen=True)
class CurvePoint:
    """How many of n images withstand the attack at one radius, through one branch or rule.

    Args:
        answer: The branch or rule that was attacked and scored.
        epsilon: As people write it, "8/255"; "0" for no attack.
        correct: Images that withstood.
        n: Images attacked.
    """

    answer: str
    epsilon: str
    correct: int
    n: int


@dataclass(frozen=True)
class Example:
    """One image before and after an attack, to look at.

    Args:
        image_id: Its place in the test set.
        answer: The branch or rule that was attacked and scored.
        clean_prediction: Class of the image.
        adv_prediction: Class of the attacked image.
        image: The image, a PNG file in base64.
        adv_image: The attacked image, rounded to 8 bits, likewise.
    """

    image_id: int
    answer: str
    clean_prediction: int
    adv_prediction: int
    image: str
    adv_image: str


@dataclass(frozen=True)
class Record:
    """What was evaluated, how, and every verdict.

    Args:
        name: Of the config.
        norm: As ``Config.norm``.
        seed: Of the training run.
        adversarial: False for a plainly trained control.
        checkpoint: tag, epoch, epochs (planned) and sha256. Of weights that other code trained
            also "imported", their file's name, sha256 and layout: both epochs are then 0, and of
            the config only what the network is.
        config: The settings that decided the training run.
        config_hash: Fingerprint of those.
        history: One entry an epoch, as ``EpochRecord.to_dict``, up to the checkpoint's run's last.
        dataset: name, sha256, classes, train_images, test_images.
        image_ids: Places of the evaluated images in the test set.
        labels: Their classes, as places in ``dataset["classes"]``.
        protocol: The evaluation's settings.
        protocol_hash: Fingerprint of those.
        verdicts: One for each attack, rule and pair of branches.
        checks: Of the evaluation itself; none where they were not asked for.
        curve: Accuracy over the attack's radius; empty likewise.
        examples: A few images before and after the attack.
        versions: Of Python and the packages that matter.
        device: In words.
        wall_seconds: Of the evaluation.
        images: Where the adversarial images are kept: "folder" beside the record, and "files", the
            name and sha256 of each in it. Empty where none are.
        sources: Folder and checkpoint's sha256 of each run whose images were transferred.
        margins: Median logit margin of the clean images, by branch or serving rule; empty in
            records from before it was kept.
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

    @property
    def imported(self) -> str:
        """File of the weights when other code trained them, else ""."""
        return str(self.checkpoint.get("imported", {}).get("file", ""))

    @property
    def n(self) -> int:
        """Number of evaluated images."""
        return len(self.image_ids)

    @property
    def branches(self) -> tuple[str, ...]:
        """Names of the branches, in their order; serving rules are none."""
        return tuple(name for name in self.answers if name not in RULES)

    @property
    def answers(self) -> tuple[str, ...]:
        """Names of all that was attacked and scored: the branches, then the serving rules."""
        return tuple(v.score_branch for v in self.verdicts if v.attack == "none")

    def attack_on(self, answer: str) -> dict[str, Any]:
        """Returns threat_model, epsilon and step_size of the attacks on a branch or serving rule.

        A branch without an attack of its own, such as "clean", and a serving rule, which may use
        any branch, are attacked as the first adversarial branch is.
        """
        attack: dict[str, Any] = self.protocol.get("branches", {}).get(answer, self.protocol)
        return attack

    def has(self, attack: str) -> bool:
        """Returns whether the attack was run."""
        return any(verdict.attack == attack for verdict in self.verdicts)

    def worst_case(self, answer: str) -> Bits:
        """Returns for each image whether it withstands everything that was run, bool (n,).

        Args:
            answer: The branch or serving rule that scores: all its verdicts, of clean images, of
                attacks on itself and on others, of final images and of any iterate.
        """
        verdicts = [verdict.correct for verdict in self.verdicts if verdict.score_branch == answer]
        withstood: Bits = np.logical_and.reduce(verdicts)
        return withstood

    def find(self, attack: str, rule: str, attack_branch: str, score_branch: str) -> Verdict:
        """Returns one verdict.

        Raises:
            RecordError: When the record has no such verdict.
        """
        for verdict in self.verdicts:
            if (attack, rule, attack_branch, score_branch) == (
                verdict.attack,
                verdict.rule,
                verdict.attack_branch,
                verdict.score_branch,
            ):
                return verdict
        raise RecordError(
            f"the record of {self.norm} seed {self.seed} has no verdict of attack {attack} "
            f"({rule}) through {attack_branch}, scored by {score_branch}; evaluate again"
        )

    def to_json(self) -> str:
        """Returns the record as JSON, verdicts as base64 of packed bits."""
        content = {field.name: getattr(self, field.name) for field in fields(self)}
        everything = self.image_ids == list(range(self.n))
        content["image_ids"] = self.n if everything else self.image_ids
        content["labels"] = _encode(np.asarray(self.labels, "<u2").tobytes())
        for name in _PARTS:
            content[name] = [asdict(entry) for entry in content[name]]
        content["verdicts"] = [
            asdict(verdict)
            | {"correct": pack(verdict.correct), "count": int(verdict.correct.sum())}
            for verdict in self.verdicts
        ]
        return json.dumps({"schema": _SCHEMA} | content, indent=1) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Record:
        """Returns the record that ``to_json`` gave.

        Raises:
            RecordError: On anything else.
        """
        try:
            content = parse_json(text)
            if content.pop("schema") != _SCHEMA:
                raise RecordError(f"it is of another schema than {_SCHEMA}")
            labels = np.frombuffer(base64.b64decode(content["labels"], validate=True), "<u2")
            content["labels"] = labels.tolist()
            ids = content["image_ids"]
            n = ids if isinstance(ids, int) else len(ids)
            if len(labels) != n:
                raise RecordError(f"it has {len(labels)} labels for {n} images")
            content["image_ids"] = list(range(n)) if isinstance(ids, int) else ids
            margins = content.get("margins", {})
            content["margins"] = {str(name): float(margins[name]) for name in margins}
            _check_paths(content)
            for name, part in _PARTS.items():
                content[name] = [part(**entry) for entry in content[name]]
            verdicts = []
            for entry in content["verdicts"]:
                correct = unpack(entry.pop("correct"), n)
                if entry.pop("count") != correct.sum():
                    raise RecordError("a verdict's bits do not give its count")
                verdicts.append(Verdict(**entry, correct=correct))
            return cls(**content | {"verdicts": verdicts})
        except RecordError:
            raise
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise RecordError(f"it is damaged ({type(error).__name__}: {error})") from error

    def save(self, path: Path) -> None:
        """Writes the record whole or not at all."""
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, self.to_json().encode(), shared=True)

    @classmethod
    def load(cls, path: Path) -> Record:
        """Reads a record.

        Raises:
            UsageError: When there is no such file.
            RecordError: When it is not one; names the file and the repair.
        """
        try:
            return cls.from_json(path.read_text())
        except FileNotFoundError as error:
            raise UsageError(f"there is no result record {path}; evaluate first") from error
        except (RecordError, OSError, UnicodeDecodeError) as error:
            raise RecordError(
                f"{path} is not a result record: {error}; remove it and evaluate again"
            ) from error


# Parts of a record that are lists of plain values.
_PARTS: dict[str, type[Any]] = {"checks": Check, "curve": CurvePoint, "examples": Example}


def _check_paths(content: dict[str, Any]) -> None:
    """Raises a RecordError where a name, of which paths are made, leads elsewhere."""
    config, images = content["config"], content.get("images", {})
    names = [content["checkpoint"]["tag"], content["norm"], *content.get("sources", {})]
    names += [config[name] for name in ("norm", "checkpoint") if name in config]
    names += [images["folder"], *images["files"]] if images else []
    odd = [name for name in names if not is_name(name)]
    odd += [] if is_inside(content["name"]) else [content["name"]]
    if odd:
        raise RecordError(f"it names '{str(odd[0])[:80]}', which leads elsewhere")


def fingerprint(content: dict[str, Any]) -> str:
    """Returns 16 hex digits that follow from plain values, whatever the order of their keys."""
    canonical = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()[:16]


def pack(bits: Bits) -> str:
    """Returns base64 of the bits, eight to a byte."""
    return _encode(np.packbits(bits).tobytes())


def unpack(text: str, n: int) -> Bits:
    """Returns the n bits that ``pack`` was given.

    Raises:
        ValueError: When the text does not hold n bits.
    """
    packed = np.frombuffer(base64.b64decode(text, validate=True), dtype=np.uint8)
    if len(packed) != (n + 7) // 8:
        raise ValueError(f"{n} verdicts are required, got {len(packed)} bytes of eight")
    return np.unpackbits(packed, count=n).astype(bool)


def _encode(data: bytes) -> str:
    return base64.b64encode(data).decode()

"""Settings of a run: plain types, checked when they are made, no torch."""

from __future__ import annotations

import dataclasses
import re
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Literal

from robustnorm.system.errors import RefusedFileError
from robustnorm.system.untrusted import parse_fraction

# Where and how to run, not what: these may differ between a run and its continuation, and between
# a checkpoint and the config that evaluates it.
WHERE = frozenset(
    {
        "data",
        "data_root",
        "download",
        "device",
        "output",
        "reports",
        "tensorboard",
        "compile",
        "save_minutes",
        "strict",
    }
)
# What to evaluate of a finished run.
WHAT_TO_EVALUATE = frozenset(
    {
        "checkpoint",
        "test_limit",
        "test_curve",
        "eval_seed",
        "eval_precision",
        "serving",
        "attacks",
        "transfer",
        "keep_images",
        "checks",
        "what",
        "study_batches",
        "study_images",
    }
)
# Names that no adversarial branch has: the first branch, and that of a network without branches.
_NO_BRANCHES = ("clean", "single")
# What is known of weights that other code trained, beside what tells runs apart.
KNOWN_OF_IMPORTED = frozenset({"network", "final_norm", "width", "input_normalization", "branches"})
# What tells apart the runs that one config compares.
COMPARED = frozenset({"norm", "seed", "adversarial"})


@dataclass(frozen=True)
class BranchAttack:
    """The attack that makes an adversarial branch's images, in training and evaluation.

    Args:
        threat_model: Ball of the attack.
        epsilon: Its radius on the [0, 1] scale.
        step_size: Size of one attack step on that scale.

    Raises:
        ValueError: On a value out of range.
    """

    threat_model: Literal["linf", "l2"]
    epsilon: Fraction
    step_size: Fraction

    def __post_init__(self) -> None:
        # An L2 ball reaches beyond 1: every pixel may change a little.
        most = 1 if self.threat_model == "linf" else 100
        for field in ("epsilon", "step_size"):
            _require(
                self, field, 0 < getattr(self, field) <= most, f"in (0, {most}], such as 8/255"
            )


@dataclass(frozen=True)
class Config:
    """Settings of one training run and of its evaluation.

    Args:
        name: Name of the folders under ``output`` and ``reports``; the config file's by default.
        norm: Normalization layer: bn, modenorm, auxbn, saauxbn, auxstatbn, ccbn or sabn.
        seed: Of the weights, the order of the images, their augmentation and the attack's starts.
        adversarial: False trains on clean images only: the control.
        protocol: Name printed with every result: paper, released-code, or one of your own.
        data: digits, cifar10, or the path of an image folder or its archive.
        data_root: Folder for downloads, unpacked archives and decoded images.
        download: Let torchvision download CIFAR-10 into ``data_root``.
        train_limit: Training images to use; all by default.
        validation: Training images held out to choose the best epoch; never test images.
        padding: Pixels of zero padding before the random crop; the dataset's by default.
        flip: Mirror images at random; as suits the dataset by default.
        network: Architecture.
        final_norm: Norm and ReLU before the pooling of preact_resnet18.
        width: Channels of the first stage; 64 is the paper's ResNet-18.
        input_normalization: Mean and deviation inside the model: of the training images, of
            ImageNet as the authors' release does, or none.
        epochs: Passes over the training images.
        batch_size: Clean images a step, of all processes together; each also gives one adversarial
            image.
        sync_norm: With many processes, take batch statistics over the images of all of them; by
            default each process normalizes its own part of the batch.
        learning_rate: Highest learning rate of SGD.
        momentum: Of SGD.
        weight_decay: L2 penalty on all parameters.
        schedule: Drops at milestones, or one-cycle (linear up, then linear down to zero).
        milestones: Epochs at which the learning rate is multiplied by ``decay``.
        decay: Factor at each milestone.
        warmup_steps: Steps of linear warm-up, for schedule milestones.
        warmup_from: Learning rate at the first step of the warm-up.
        peak: Fraction of the run at which one-cycle reaches ``learning_rate``.
        loss: Sum of clean and adversarial loss (Eq. 7) or their mean (the release).
        label_smoothing: Of both losses.
        gradient_clipping: Largest gradient norm; none by default.
        threat_model: Ball of the attack, in training and evaluation: linf or l2.
        epsilon: Its radius on the [0, 1] scale.
        step_size: Size of one attack step on that scale; with linf the change of a pixel.
        train_steps: PGD steps of the training attack.
        branches: Adversarial branches beside "clean", by name, each with an attack of its own:
            {linf: {threat_model: linf, epsilon: 8/255, step_size: 2/255}, l2: ...}. By default one,
            "adv", with the attack above, which counts for nothing where branches are given.
        attack_norm_mode: Statistics during the training attack: the batch's, leaving the running
            ones alone; the batch's, moving them (as released); or the running ones.
        validation_steps: PGD steps of the validation after each epoch.
        test_curve: Test images whose losses and accuracies are recorded after each epoch, for
            Figure 6; they choose nothing. 0 for none.
        precision: Of training; verdicts of an evaluation are always fp32.
        channels_last: Memory format of images and weights.
        compile: Run the network in training, and the copies whose gradients the attacks of an
            evaluation follow, through torch.compile; verdicts stay as they are.
        keep_epochs: Epochs whose weights are kept besides best and last.
        save_minutes: Minutes after which the state is saved within an epoch, besides after each.
        checkpoint: Which weights to evaluate: best, last, or epoch followed by a number.
        test_limit: Test images to evaluate; all by default.
        eval_seed: Of the random starts of the evaluation attack.
        eval_precision: Of the gradients of that attack; bf16 is faster.
        serving: Also evaluate serving rules, which choose a branch themselves; three times as long.
        attacks: Further attacks on each branch, such as [pgd-50x5-margin, fgsm, autoattack,
            torchattacks:DeepFool]; those of other packages need the extra "peers".
        transfer: Also score each run's branches on the PGD-20 images of every other run; keeps the
            images.
        keep_images: Keep the adversarial images beside the record, for ``robustnorm verify``: 4
            bytes a value, for each attack and branch.
        checks: Of the evaluation itself: quick (seconds), full (minutes), or none.
        strict: End with exit status 6, after the tables, when a check found an evaluation
            unreliable.
        device: cpu, cuda, cuda:1, ...; a GPU where there is one by default.
        output: Folder of checkpoints.
        reports: Folder of tables and result records.
        tensorboard: Write TensorBoard files too (needs the extra "track").

    Raises:
        ValueError: On a value out of range, with what is required and what was received.
    """

    name: str | None = None
    norm: str = "saauxbn"
    seed: int = 0
    adversarial: bool = True
    protocol: str = "short"
    # Data
    data: str = "digits"
    data_root: str = "data"
    download: bool = False
    train_limit: int | None = None
    validation: int = 128
    padding: int | None = None
    flip: bool | None = None
    # Network
    network: Literal["resnet18", "preact_resnet18"] = "resnet18"
    final_norm: bool = True
    width: int = 64
    input_normalization: Literal["dataset", "imagenet", "none"] = "dataset"
    # Optimization
    epochs: int = 30
    batch_size: int = 128
    sync_norm: bool = False
    learning_rate: float = 0.1
    momentum: float = 0.9
    weight_decay: float = 5e-4
    schedule: Literal["milestones", "one-cycle"] = "one-cycle"
    milestones: tuple[int, ...] = (50, 150)
    decay: float = 0.1
    warmup_steps: int = 0
    warmup_from: float = 0.01
    peak: float = 0.3
    loss: Literal["sum", "mean"] = "sum"
    label_smoothing: float = 0.0
    gradient_clipping: float | None = None
    # Attack
    threat_model: Literal["linf", "l2"] = "linf"
    epsilon: Fraction = Fraction(8, 255)
    step_size: Fraction = Fraction(2, 255)
    train_steps: int = 10
    # Left out of the hash, which a dictionary has not; equal settings still have equal hashes.
    branches: dict[str, BranchAttack] = dataclasses.field(default_factory=dict, hash=False)
    attack_norm_mode: Literal["batch", "batch-update", "eval"] = "batch"
    validation_steps: int = 10
    test_curve: int = 0
    # Execution
    precision: Literal["fp32", "bf16"] = "fp32"
    channels_last: bool = True
    compile: bool = False
    keep_epochs: tuple[int, ...] = ()
    save_minutes: float = 10.0
    tensorboard: bool = False
    device: str = "auto"
    # Evaluation and places
    checkpoint: str = "best"
    test_limit: int | None = None
    eval_seed: int = 0
    eval_precision: Literal["fp32", "bf16"] = "fp32"
    serving: bool = False
    attacks: tuple[str, ...] = ()
    transfer: bool = False
    keep_images: bool = False
    checks: Literal["none", "quick", "full"] = "quick"
    strict: bool = False
    output: str = "checkpoints"
    reports: str = "reports"

    def __post_init__(self) -> None:
        for field in (
            "width",
            "epochs",
            "batch_size",
            "validation",
            "train_steps",
            "validation_steps",
        ):
            self._require(field, getattr(self, field) >= 1, "at least 1")
        for field in ("train_limit", "test_limit"):
            value = getattr(self, field)
            self._require(field, value is None or value >= 1, "at least 1, or null for all")
        for field in (
            "seed",
            "eval_seed",
            "warmup_steps",
            "weight_decay",
            "test_curve",
            "save_minutes",
        ):
            self._require(field, getattr(self, field) >= 0, "at least 0")
        for name in self.adversarial_branches:  # whose own values are checked when they are made
            if name in _NO_BRANCHES or not re.fullmatch(r"\w+", name):
                raise ValueError(
                    "the name of an adversarial branch must be a word other than "
                    f"{' and '.join(_NO_BRANCHES)}, got '{name}'"
                )
        for field in ("learning_rate", "decay", "warmup_from"):
            self._require(field, getattr(self, field) > 0, "above 0")
        for field in ("momentum", "label_smoothing", "peak"):
            self._require(field, 0 <= getattr(self, field) < 1, "in [0, 1)")
        clipping = self.gradient_clipping
        self._require("gradient_clipping", clipping is None or clipping > 0, "above 0, or null")
        self._require("padding", self.padding is None or self.padding >= 0, "at least 0, or null")
        tag = self.checkpoint.removeprefix("epoch")
        self._require(
            "checkpoint",
            self.checkpoint in ("best", "last") or (tag != self.checkpoint and tag.isdigit()),
            "best, last, or epoch and a number such as epoch190",
        )

    def _require(self, field: str, holds: bool, what: str) -> None:
        _require(self, field, holds, what)

    @property
    def adversarial_branches(self) -> dict[str, BranchAttack]:
        """The adversarial branches, at least one, with what makes their images."""
        return self.branches or {
            "adv": BranchAttack(self.threat_model, self.epsilon, self.step_size)
        }

    @property
    def attack(self) -> BranchAttack:
        """What attacks where no adversarial branch is: the first one's attack."""
        return next(iter(self.adversarial_branches.values()))

    @property
    def run(self) -> str:
        """Name of this run's folder: the norm, what it was trained on, and the seed."""
        training = "" if self.adversarial else "-plain"
        return f"{self.norm}{training}-seed{self.seed}"

    def to_dict(self) -> dict[str, Any]:
        """Returns plain values, fractions as people write them ("8/255")."""
        return {field.name: _plain(getattr(self, field.name)) for field in dataclasses.fields(self)}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Config:
        """Returns the settings that ``to_dict`` gave, here or in an earlier version.

        Raises:
            RefusedFileError: On anything else.
        """
        try:
            typed = dict(values)
            typed.pop("autoattack", None)  # chose what to evaluate, now one of ``attacks``
            for field in ("epsilon", "step_size"):
                if field in typed:
                    typed[field] = parse_fraction(typed[field])
            for field in ("milestones", "keep_epochs", "attacks"):
                if field in typed:
                    typed[field] = tuple(typed[field])
            typed["branches"] = {
                name: BranchAttack(
                    attack["threat_model"],
                    parse_fraction(attack["epsilon"]),
                    parse_fraction(attack["step_size"]),
                )
                for name, attack in typed.get("branches", {}).items()
            }
            return cls(**typed)
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise RefusedFileError(
                f"the saved settings are none that this version reads ({error}); remove the file "
                "that holds them"
            ) from error

    def differences(self, other: Config, ignore: frozenset[str]) -> dict[str, tuple[Any, Any]]:
        """Returns the settings that differ, as field: (self's, other's)."""
        mine, others = self.to_dict(), other.to_dict()
        return {
            field: (mine[field], others[field])
            for field in mine
            if field not in ignore and mine[field] != others[field]
        }


@dataclass(frozen=True)
class VerifySettings:
    """Settings of a re-check.

    Args:
        record: Path of the record, reports/<config>/records/<run>-<checkpoint>.json.
        data: digits, cifar10, or a path; by default that with which the run was trained.
        data_root: Folder of downloads and decoded images.
        output: Folder of checkpoints.
        device: cpu, cuda, cuda:1, ...; a GPU where there is one by default.
    """

    record: str
    data: str | None = None
    data_root: str = "data"
    output: str = "checkpoints"
    device: str = "auto"


@dataclass(frozen=True)
class StudyConfig(Config):
    """Settings of one training run, of its evaluation and of the studies of the trained network.

    Args:
        what: Study to make; all that suit a network by default.
        study_batches: Training batches from which running statistics are measured again.
        study_images: Test images on which ModeNorm's gates are read.
    """

    what: Literal["all", "swap", "reestimate", "gates"] = "all"
    study_batches: int = 50
    study_images: int = 1000

    def __post_init__(self) -> None:
        super().__post_init__()
        for field in ("study_batches", "study_images"):
            self._require(field, getattr(self, field) >= 1, "at least 1")


@dataclass(frozen=True)
class ReportConfig(Config):
    """Settings of a report: those that say where its records lie, and the records themselves.

    Args:
        records: Result records or folders of them; those of the config by default.
    """

    records: list[str] = dataclasses.field(
        default_factory=list,
        metadata={"by_place": "Result records or folders of them; the config's by default."},
    )


def _require(settings: object, field: str, holds: bool, what: str) -> None:
    if not holds:
        raise ValueError(f"{field} must be {what}, got {getattr(settings, field)}")


def _plain(value: Any) -> Any:
    if isinstance(value, BranchAttack):
        return _plain(dataclasses.asdict(value))
    if isinstance(value, dict):
        return {name: _plain(entry) for name, entry in value.items()}
    if isinstance(value, Fraction):
        return str(value)
    return list(value) if isinstance(value, tuple) else value

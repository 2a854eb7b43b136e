"""Groups of the settings of a run; they also define what may differ between compared runs."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any, ClassVar, Literal

from robustnorm.attacks.limits import check_size
from robustnorm.settings.base import Settings, check_plain
from robustnorm.system.names import check_name

# Names not allowed for adversarial branches: those of the first and of an unbranched network's.
_NO_BRANCHES = ("clean", "single")


@dataclass(frozen=True)
class BranchAttack:
    """The attack of an adversarial branch, in training and evaluation.

    Args:
        threat_model: Ball of the attack.
        epsilon: Radius of that ball on the [0, 1] scale.
        step_size: Size of one attack step on that scale.

    Raises:
        ValueError: On a value out of range.
    """

    threat_model: Literal["linf", "l2"]
    epsilon: Fraction
    step_size: Fraction

    def __post_init__(self) -> None:
        for name in ("epsilon", "step_size"):
            check_size(name, getattr(self, name), self.threat_model)

    @property
    def options(self) -> dict[str, Any]:
        """Its keyword arguments for ``robustnorm.attacks.pgd``, with floats."""
        return {
            "epsilon": float(self.epsilon),
            "step_size": float(self.step_size),
            "threat_model": self.threat_model,
        }


@dataclass(frozen=True)
class Named(Settings):
    """Name.

    Args:
        name: Name of the folders under ``output`` and ``reports``; the config file's by default.
    """

    unnamed: ClassVar[str] = "default"  # without a name or a config file

    name: str | None = None

    def name_in(self, path: Path | None) -> str | None:
        """Returns the default name: that of the config file, if there is one."""
        return path.stem if path else self.unnamed

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.name is not None:
            check_name("name", self.name, nested=True)


@dataclass(frozen=True)
class Compared(Settings):
    """Differences between the runs of one config.

    Args:
        norm: Normalization layer: bn, modenorm, auxbn, saauxbn, auxstatbn, ccbn or sabn.
        seed: Seed of the weights, the order and augmentation of the images, and the attack's
            random starts.
        adversarial: False trains on clean images only, as a control.
    """

    norm: str = "saauxbn"
    seed: int = 0
    adversarial: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        check_name("norm", self.norm)
        self._seed("seed")


@dataclass(frozen=True)
class Data(Settings):
    """Training images.

    Args:
        train_limit: Number of training images to use; all by default.
        validation: Training images held out to select the best epoch; never test images.
        padding: Pixels of zero padding before the random crop; depends on the data set by default.
        crop_area: Train on random crops with at least this fraction of an image's area, scaled to
            the size given by ``resize``, instead of padded crops; for images on disk.
        flip: Mirror images at random; depends on the data set by default.
    """

    train_limit: int | None = None
    validation: int = 128
    padding: int | None = None
    flip: bool | None = None
    crop_area: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        limit = self.train_limit
        self._require("train_limit", limit is None or limit >= 1, "at least 1, or null for all")
        self._least(1, "validation")
        padding = self.padding
        self._require("padding", padding is None or 0 <= padding <= 4096, "0 to 4096, or null")
        area = self.crop_area
        self._require("crop_area", area is None or 0 < area <= 1, "in (0, 1], or null")


@dataclass(frozen=True)
class Network(Settings):
    """Network: everything that weights trained by other code must match.

    Args:
        network: resnet18, preact_resnet18, wideresnet28_10, wideresnet34_10 or vgg16; timm:NAME; or
            a function in a module, such as mypkg.nets:wrn, which is imported only if its name is
            typed after --network, never because a file names it.
        network_args: Further arguments of the network's function, such as {depth: 28}.
        final_norm: Apply norm and ReLU before the pooling of preact_resnet18.
        width: Channels of the first stage; 64 is the paper's ResNet-18.
        input_normalization: Mean and standard deviation inside the model: of the training images
            (dataset), of ImageNet (imagenet) as in the authors' release, or none.
        branches: Adversarial branches besides "clean" by name, each with its attack:
            {linf: {threat_model: linf, epsilon: 8/255, step_size: 2/255}, l2: ...}. By default one,
            "adv", with the attack of threat_model, epsilon and step_size.
    """

    network: str = "resnet18"
    network_args: dict[str, Any] = field(default_factory=dict, hash=False)
    final_norm: bool = True
    width: int = 64
    input_normalization: Literal["dataset", "imagenet", "none"] = "dataset"
    # Dictionaries have no hash; equal settings still have equal hashes.
    branches: dict[str, BranchAttack] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        self._least(1, "width")
        check_plain(self.network_args, "network_args")
        for name in self.branches:
            if name in _NO_BRANCHES or not re.fullmatch(r"\w+", name):
                raise ValueError(
                    "the name of an adversarial branch must be a word other than "
                    f"{' and '.join(_NO_BRANCHES)}, got '{name}'"
                )
            check_name("the name of an adversarial branch", name)


@dataclass(frozen=True)
class Training(Settings):
    """Training.

    Args:
        protocol: Name printed with every result: paper, released-code, or a name you choose.
        epochs: Passes over the training images.
        batch_size: Clean images per step, over all processes; each also gives one adversarial
            image.
        sync_norm: With several processes, take batch statistics over all of their images; by
            default each process normalizes its share of the batch.
        learning_rate: Highest learning rate of SGD.
        momentum: Momentum of SGD.
        weight_decay: L2 penalty on all parameters.
        schedule: Learning rate: drops at milestones, or one-cycle (linear up, then down to zero).
        milestones: Epochs at which the learning rate is multiplied by ``decay``.
        decay: Factor at each milestone.
        warmup_steps: Steps of linear warm-up, for schedule milestones.
        warmup_from: Learning rate at the first step of the warm-up.
        peak: Fraction of the run at which one-cycle reaches ``learning_rate``.
        loss: Sum of the clean and adversarial losses (Eq. 7), or their mean (authors' release).
        label_smoothing: Label smoothing of both losses.
        gradient_clipping: Largest gradient norm; none by default.
        precision: fp32 or bf16, in training; verdicts of an evaluation always use fp32.
        channels_last: Use the channels-last memory format for images and weights.
        keep_epochs: Epochs whose weights are kept besides best and last.
    """

    protocol: str = "short"
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
    precision: Literal["fp32", "bf16"] = "fp32"
    channels_last: bool = True
    keep_epochs: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        self._least(1, "epochs", "batch_size")
        self._least(0, "warmup_steps", "weight_decay")
        for name in ("learning_rate", "decay", "warmup_from"):
            self._require(name, getattr(self, name) > 0, "above 0")
        for name in ("momentum", "label_smoothing", "peak"):
            self._require(name, 0 <= getattr(self, name) < 1, "in [0, 1)")
        clipping = self.gradient_clipping
        self._require("gradient_clipping", clipping is None or clipping > 0, "above 0, or null")


@dataclass(frozen=True)
class Attack(Settings):
    """Training attack.

    Args:
        threat_model: Ball of the attack, in training and evaluation: linf or l2.
        epsilon: Radius of the attack's ball on the [0, 1] scale, such as 8/255.
        step_size: Size of one attack step on the [0, 1] scale; with linf the change of a pixel.
        train_steps: PGD steps of the training attack.
        attack_norm_mode: Statistics during the training attack: the batch's, with running ones
            unchanged (batch); the batch's, updating the running ones, as released (batch-update);
            or the running ones (eval).
        validation_steps: PGD steps of the validation after each epoch.
    """

    threat_model: Literal["linf", "l2"] = "linf"
    epsilon: Fraction = Fraction(8, 255)
    step_size: Fraction = Fraction(2, 255)
    train_steps: int = 10
    attack_norm_mode: Literal["batch", "batch-update", "eval"] = "batch"
    validation_steps: int = 10

    def __post_init__(self) -> None:
        super().__post_init__()
        self._least(1, "train_steps", "validation_steps")


@dataclass(frozen=True)
class Evaluation(Settings):
    """Evaluation.

    Args:
        checkpoint: Weights to evaluate: best, last, or epoch followed by a number.
        test_limit: Number of test images to evaluate; all by default.
        test_curve: Test images whose losses and accuracies are recorded after each epoch, for
            Figure 6; they select nothing. 0 for none.
        eval_seed: Seed of the random starts of the evaluation attack.
        eval_precision: Precision of the evaluation attack's gradients; bf16 is faster than fp32.
        serving: Also evaluate serving rules, which combine the branches; takes three times as long.
        worst: Also run the attack worst on each branch, a portfolio of attacks on the images that
            still withstand: Table 4 then ends with the worst case.
        attacks: Further attacks on each branch, such as pgd-50x5-margin, autoattack or
            torchattacks:DeepFool; those of other packages need the extra "peers".
        transfer: Also score each run's branches on the PGD-20 images of every other run; keeps the
            images.
        keep_images: Keep the adversarial images beside the record, for ``robustnorm verify``: 4
            bytes per value, attack and branch.
        examples: Images per branch that record and page show before and after the attack; 0 if the
            images must not be published, which also takes them out of an existing record.
        checks: Checks of the evaluation itself: quick (seconds), full (minutes), or none.
    """

    checkpoint: str = "best"
    test_limit: int | None = None
    test_curve: int = 0
    eval_seed: int = 0
    eval_precision: Literal["fp32", "bf16"] = "fp32"
    serving: bool = False
    worst: bool = True
    attacks: tuple[str, ...] = ()
    transfer: bool = False
    keep_images: bool = False
    examples: int = 8
    checks: Literal["none", "quick", "full"] = "quick"

    @property
    def all_attacks(self) -> tuple[str, ...]:
        """The attacks besides PGD-10 and PGD-20, without duplicates."""
        return tuple(dict.fromkeys(("worst",) * self.worst + self.attacks))

    def __post_init__(self) -> None:
        super().__post_init__()
        limit = self.test_limit
        self._require("test_limit", limit is None or limit >= 1, "at least 1, or null for all")
        self._least(0, "test_curve", "examples")
        self._seed("eval_seed")
        self._tag("checkpoint")


@dataclass(frozen=True)
class Files(Settings):
    """Files and devices; results do not depend on them.

    Args:
        data: Name of a data set, or the path of images; see docs/data.md.
        data_root: Folder for downloads and results computed from images.
        download: Download a data set of a known name into ``data_root``.
        resize: Height and width to which encoded images are scaled by their shorter side and
            cropped around the center. By default all must have the same size.
        stream: Leave encoded images on disk and decode them when needed; by default if they would
            take more than 2 GiB of memory.
        data_workers: Processes that decode and augment images in training when they stay on disk;
            by default one per core.
        device: cpu, cuda, cuda:1, ...; by default a GPU if there is one.
        output: Folder of checkpoints.
        reports: Folder of tables and result records.
        tensorboard: Also write TensorBoard files (needs the extra "track").
        compile: Apply torch.compile to the network in training, and in evaluation to the copies
            that give the attacks' gradients; verdicts do not use it.
        save_minutes: Minutes between saves of the state within an epoch.
        strict: Exit with status 6, after printing the tables, if a check found an evaluation
            unreliable.
    """

    data: str = "digits"
    data_root: str = "data"
    download: bool = False
    resize: int | None = None
    stream: bool | None = None
    data_workers: int | None = None
    device: str = "auto"
    output: str = "checkpoints"
    reports: str = "reports"
    tensorboard: bool = False
    compile: bool = False
    save_minutes: float = 10.0
    strict: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        self._least(0, "save_minutes")
        size, workers = self.resize, self.data_workers
        self._require("resize", size is None or 1 <= size <= 4096, "from 1 to 4096, or null")
        self._require("data_workers", workers is None or workers >= 0, "at least 0, or null")

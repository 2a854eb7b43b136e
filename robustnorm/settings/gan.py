"""Settings of the conditional GANs of Table 1; no torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from robustnorm.settings.base import Settings, names
from robustnorm.system.names import check_name

Network = Literal["sngan", "biggan", "autogan"]


@dataclass(frozen=True)
class GanFiles(Settings):
    """Runs, data, files and devices.

    Args:
        name: Name of the folders under ``output`` and ``reports``.
        networks: GANs to train: sngan, biggan, autogan (AutoGAN-top1).
        norms: Norms of each generator: ccbn, sabn.
        seeds: Seeds of each network and norm, for weights, latent vectors, labels and image order.
        train: Train missing runs; false only prints what is recorded.
        data: digits, cifar10, or the path of an image folder or its archive.
        data_root: Folder for downloads, unpacked archives and decoded images.
        download: Download a data set of a known name into ``data_root``.
        inception_weights: Path of the Inception weights published by torch-fidelity.
        save_minutes: Minutes between saves of the state, besides those at each measurement.
        device: cpu, cuda, cuda:1, ...; by default a GPU if there is one.
        output: Folder of checkpoints.
        reports: Folder of tables, figures and records.
    """

    name: str = "table1"
    networks: tuple[Network, ...] = ("sngan", "biggan", "autogan")
    norms: tuple[Literal["ccbn", "sabn"], ...] = ("ccbn", "sabn")
    seeds: tuple[int, ...] = (0, 1, 2)
    train: bool = True
    data: str = "cifar10"
    data_root: str = "data"
    download: bool = False
    inception_weights: str | None = None
    save_minutes: float = 10.0
    device: str = "auto"
    output: str = "checkpoints"
    reports: str = "reports"


@dataclass(frozen=True)
class GanSettings(GanFiles):
    """Settings of Table 1: which GANs to train and how to measure them.

    Args:
        image_size: Height and width of the images, a multiple of 8; larger ones are averaged down.
        width: Channels of the generator.
        discriminator_width: Channels of the discriminator.
        latent_dim: Length of a latent vector.
        steps: Steps of the generator.
        discriminator_steps: Steps of the discriminator per step of the generator.
        batch_size: Real images, and as many generated ones, per step of the discriminator.
        generator_batch: Generated images per step of the generator.
        learning_rate: Learning rate of Adam, for both.
        betas: Betas of Adam, for both.
        decay: Learning rate decay: none, as in the authors' release, or linear to 0, as in SNGAN's
            original recipe.
        average: Weight of the previous mean in the running mean of the generator's parameters;
            measures use that mean.
        average_from: Step before which the running mean equals the generator.
        eval_every: Steps between two measurements.
        eval_images: Generated images per measurement.
        features: Feature network of the measures: a classifier trained here, or the Inception
            network of FID and IS, which needs the extra "fidelity" and its weights.
        classifier_epochs: Epochs of that classifier.
        classifier_width: Channels of its first stage; it has 8 times as many features.
        keep_steps: Steps whose networks are kept and whose gradients are compared, for Figure 2.
        gradient_latents: Latent vectors in that comparison, each used with every class.
        gradient_batches: Batches of ``batch_size`` latent vectors in that comparison.

    Raises:
        ValueError: On a value out of range, with the requirement and the value received.
    """

    # Data
    image_size: int = 32
    # Networks
    width: int = 256
    discriminator_width: int = 128
    latent_dim: int = 128
    # Optimization
    steps: int = 50_000
    discriminator_steps: int = 5
    batch_size: int = 64
    generator_batch: int = 128
    learning_rate: float = 2e-4
    betas: tuple[float, float] = (0.0, 0.9)
    decay: Literal["none", "linear"] = "none"
    average: float = 0.999
    average_from: int = 0
    # Measures
    eval_every: int = 2_500
    eval_images: int = 50_000
    features: Literal["classifier", "inception"] = "classifier"
    classifier_epochs: int = 5
    classifier_width: int = 8
    keep_steps: tuple[int, ...] = ()
    gradient_latents: int = 48
    gradient_batches: int = 10

    def __post_init__(self) -> None:
        super().__post_init__()
        check_name("name", self.name, nested=True)
        self._least(
            1,
            *("width", "discriminator_width", "latent_dim", "steps", "discriminator_steps"),
            *("eval_every", "classifier_epochs", "classifier_width"),
        )
        for field in ("networks", "norms", "seeds"):
            values = getattr(self, field)
            self._require(
                field, values and len(set(values)) == len(values), "one or more different values"
            )
        # Of one image at the smallest size, norms have no batch statistics.
        self._least(2, "batch_size", "generator_batch", "gradient_latents", "gradient_batches")
        self._least(10, "eval_images")  # an Inception Score has ten splits
        self._seed("seeds")
        self._require(
            "image_size", self.image_size >= 8 and self.image_size % 8 == 0, "a multiple of 8"
        )
        self._require("learning_rate", self.learning_rate > 0, "above 0")
        self._require("betas", all(0 <= beta < 1 for beta in self.betas), "in [0, 1)")
        self._require("average", 0 <= self.average < 1, "in [0, 1)")
        self._least(0, "average_from", "save_minutes")
        self._require(
            "keep_steps",
            all(1 <= step <= self.steps for step in self.keep_steps)
            and len(set(self.keep_steps)) == len(self.keep_steps),
            f"different steps between 1 and the {self.steps} of the run",
        )
        self._require(
            "inception_weights",
            self.features != "inception" or self.inception_weights is not None,
            "the path of the weights when features is inception",
        )

    def to_dict(self) -> dict[str, Any]:
        """Returns the settings that determine a run's results, besides network, norm and seed."""
        values = super().to_dict()
        return {name: value for name, value in values.items() if name not in names(GanFiles)}

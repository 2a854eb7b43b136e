"""Settings of ``robustnorm figure7`` and ``robustnorm stylize``; no torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from robustnorm.settings.base import names
from robustnorm.settings.groups import Named
from robustnorm.system.registry import unknown

# A row of the table: the norm, with "-detached" when the content loss has a detached target.
ROWS = ("adain", "ilm", "saadain", "ilm-detached", "saadain-detached")
_POSITIVE = (
    "encoder_epochs",
    "steps",
    "batch_size",
    "crop",
    "resize",
    "log_every",
    "validate_every",
    "validation_pairs",
    "learning_rate",
)
_NOT_NEGATIVE = ("learning_rate_decay", "content_weight", "style_weight", "workers", "save_minutes")


@dataclass(frozen=True)
class StyleFiles(Named):
    """Rows, pictures, files and devices; pictures and weights are identified by their hashes.

    Args:
        rows: Networks to train: adain, ilm and saadain, with the content loss's target as in the
            authors' release; ilm-detached and saadain-detached, with a target that passes no
            gradient.
        seeds: Seeds of the decoder's and the norm's weights and of the training pictures.
        data: Training data of the small encoder, and content: pictures (embedded photographs),
            cifar10, or the path of an image folder with classes or its archive.
        content: Folder of content pictures, instead of those of ``data``.
        style: Folder of style pictures; embedded textures by default.
        validation_content: Folder of held-out content; by default the data's test images, or a
            tenth of ``content``.
        validation_style: Folder of held-out styles; by default other embedded textures, or a tenth
            of ``style``.
        data_root: Folder for downloads, unpacked archives and decoded images.
        save_minutes: Minutes between saves of the state, besides those after each validation.
        workers: Processes that read pictures; 0 for none besides the main one.
        device: cpu, cuda, cuda:1, ...; by default a GPU if there is one.
        output: Folder of checkpoints.
        reports: Folder of tables, figures and records.
    """

    unnamed: ClassVar[str] = "figure7"

    rows: tuple[str, ...] = ("adain", "ilm", "saadain", "saadain-detached")
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    data: str = "pictures"
    content: str | None = None
    style: str | None = None
    validation_content: str | None = None
    validation_style: str | None = None
    data_root: str = "data"
    save_minutes: float = 5.0
    workers: int = 0
    device: str = "auto"
    output: str = "checkpoints"
    reports: str = "reports"


@dataclass(frozen=True)
class StyleSettings(StyleFiles):
    """Settings of Figures 7 and 8: networks for style transfer, one per row and seed.

    Args:
        recolor: Mix the colors of training styles at random, so that few textures give many styles.
        vgg: File of VGG-19's weights, as safetensors or saved by torch, with the names of
            vgg_normalised or torchvision; by default a small encoder is trained.
        encoder_widths: Channels of the small encoder's stages.
        encoder_epochs: Epochs of its training.
        cut: Stage after whose first ReLU the norm is applied: 4 is relu4_1, as in the paper.
        variance: Variance in the norm and the style loss: population, or unbiased as in the
            release.
        steps: Steps of Adam.
        batch_size: Content pictures, and style pictures, per step.
        crop: Side of the random square crops, in pixels.
        resize: Side to which the pictures of folders are scaled first, whatever their shape.
        learning_rate: Learning rate of Adam.
        learning_rate_decay: d in learning_rate / (1 + d step).
        content_weight: Weight of the content loss.
        style_weight: Weight of the style loss.
        precision: Precision of training; measures always use fp32.
        log_every: Steps averaged into a point of the training curve.
        validate_every: Steps between two validations.
        validation_pairs: Number of fixed pairs of content and style that are measured.

    Raises:
        ValueError: On a value out of range, with what is required and what was received.
    """

    # Pictures
    recolor: bool = True
    # Networks
    vgg: str | None = None
    encoder_widths: tuple[int, ...] = (16, 32, 64, 128)
    encoder_epochs: int = 3
    cut: int = 3
    variance: Literal["population", "unbiased"] = "population"
    # Optimization
    steps: int = 1200
    batch_size: int = 8
    crop: int = 32
    resize: int = 64
    learning_rate: float = 1e-3
    learning_rate_decay: float = 5e-5
    content_weight: float = 1.0
    style_weight: float = 1.0
    precision: Literal["fp32", "bf16"] = "fp32"
    # Measures and places
    log_every: int = 5
    validate_every: int = 100
    validation_pairs: int = 200

    def __post_init__(self) -> None:
        super().__post_init__()
        for row in self.rows:
            if row not in ROWS:
                raise ValueError(unknown("row", row, list(ROWS)))
        for field in ("rows", "seeds", "encoder_widths"):
            values = getattr(self, field)
            distinct = len(set(values)) == len(values) or field == "encoder_widths"
            self._require(field, bool(values) and distinct, "one or more different values")
        for field in _POSITIVE:
            self._require(field, getattr(self, field) > 0, "above 0")
        self._least(0, *_NOT_NEGATIVE)
        self._seed("seeds")
        self._require("encoder_widths", min(self.encoder_widths) >= 1, "at least 1")
        self._require("validate_every", self.validate_every <= self.steps, "at most steps")
        most = 4 if self.vgg else len(self.encoder_widths)
        self._require("cut", 2 <= self.cut <= most, f"from 2 to {most}, the encoder's stages")
        self._require("crop", self.crop <= self.resize, f"at most resize {self.resize}")
        self._require("crop", self.crop >= 2**self.cut, f"at least {2**self.cut} with this cut")
        width = (64, 128, 256, 512)[self.cut - 1] if self.vgg else self.encoder_widths[self.cut - 1]
        if any(row.startswith("ilm") for row in self.rows) and width % 16:
            raise ValueError(f"ilm needs a multiple of 16 channels at this cut, got {width}")


@dataclass(frozen=True)
class StylizeSettings:
    """Settings of one stylized picture.

    Args:
        run: Folder of a trained network, such as checkpoints/figure7/saadain-seed0.
        content: Picture that provides the content.
        style: Picture that provides the style.
        into: File to write, .png or .jpg.
        side: Longer side to which both pictures are scaled down, in pixels; unchanged by default.
        device: cpu, cuda, cuda:1, ...; by default a GPU if there is one.

    Raises:
        ValueError: On a value out of range, with what is required and what was received.
    """

    only_in_files: ClassVar[frozenset[str]] = names(StyleSettings) - {
        *("content", "style", "device"),
    }
    # In a config, these are folders of pictures.
    other_in_files: ClassVar[frozenset[str]] = frozenset({"content", "style"})

    run: str
    content: str
    style: str
    into: str = "stylized.png"
    side: int | None = None
    device: str = "auto"

    def __post_init__(self) -> None:
        if self.side is not None and self.side < 1:
            raise ValueError(f"side must be at least 1, or null, got {self.side}")
        if not self.into.lower().endswith((".png", ".jpg", ".jpeg")):
            raise ValueError(f"into must end in .png or .jpg, got {self.into}")

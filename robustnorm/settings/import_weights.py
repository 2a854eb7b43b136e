"""Settings of ``robustnorm import``: those of a run, and the file of weights; no torch."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, Literal

from robustnorm.settings.base import names
from robustnorm.settings.config import Config
from robustnorm.settings.groups import Data, Evaluation, Training


@dataclass(frozen=True)
class ImportSettings(Config):
    """Weights that other code trained, with their network and data.

    Args:
        file: One .safetensors file, or one that torch.save wrote.
        layout: Code whose names the file uses; plain is this package, and any code whose names
            differ by a prefix alone.
        part: Key of the weights in the file where it has several, such as ema_state_dict.
        mean: Per channel, on the [0, 1] scale: what the training code subtracted from images before
            the network; none by default, since a file with its own mean and deviation has them
            inside.
        std: Per channel, what it divided by.
    """

    only_in_files: ClassVar[frozenset[str]] = names(Data, Training, Evaluation)
    # Weights are imported as "best", whatever else a config evaluates.
    other_in_files: ClassVar[frozenset[str]] = frozenset({"checkpoint"})

    file: list[str] = field(
        default_factory=list,
        metadata={"by_place": "A .safetensors file, or one that torch.save wrote."},
    )
    layout: Literal["plain", "timm-splitbn", "advprop-mixbn", "oat-dualbn", "sandwich-release"] = (
        "plain"
    )

    part: str | None = None
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        self._require("mean", len(self.mean) == len(self.std), f"as many values as {self.std}")
        self._require("std", all(value > 0 for value in self.std), "above 0")
        self._require("file", len(self.file) == 1, "one file")
        self._require("checkpoint", self.checkpoint == "best", "best")

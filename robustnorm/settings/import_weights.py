"""Settings of the command import: those of a run, and where its weights come from."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, Literal

from robustnorm.settings.base import names
from robustnorm.settings.config import Config
from robustnorm.settings.groups import Data, Evaluation, Training


@dataclass(frozen=True)
class ImportSettings(Config):
    """Weights that other code trained, and the network and data that they are for.

    Args:
        file: One .safetensors file, or one that torch.save wrote.
        layout: Whose names the file uses: plain is this package's.
    """

    only_in_files: ClassVar[frozenset[str]] = names(Data, Training, Evaluation)

    file: list[str] = field(
        default_factory=list,
        metadata={"by_place": "A .safetensors file, or one that torch.save wrote."},
    )
    layout: Literal["plain", "timm-splitbn", "advprop-mixbn", "oat-dualbn", "sandwich-release"] = (
        "plain"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        self._require("file", len(self.file) == 1, "one file")
        self._require("checkpoint", self.checkpoint == "best", "best")

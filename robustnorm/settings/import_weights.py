"""Settings of ``robustnorm import`` and ``robustnorm eval``; no torch."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Literal

from robustnorm.settings.base import Settings, names
from robustnorm.settings.config import Config
from robustnorm.settings.groups import Data, Evaluation, Training


@dataclass(frozen=True)
class Foreign(Settings):
    """Weights that other code trained.

    Args:
        layout: Code whose names the file uses; plain is this package, or any code whose names
            differ only by a prefix.
        part: Key of the weights, if the file has several sets, such as ema_state_dict.
        mean: Mean per channel, on the [0, 1] scale, that the training code subtracted from images
            before the network; none by default, as for a file that contains mean and deviation.
        std: Standard deviation per channel by which the training code divided.
    """

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


@dataclass(frozen=True)
class ImportSettings(Foreign, Config):
    """Weights that other code trained, with their network and data.

    Args:
        file: One .safetensors file, or one that torch.save wrote.
    """

    only_in_files: ClassVar[frozenset[str]] = names(Data, Training, Evaluation)
    # Weights are imported as "best", whatever else a config evaluates.
    other_in_files: ClassVar[frozenset[str]] = frozenset({"checkpoint"})

    file: list[str] = field(
        default_factory=list,
        metadata={"positional": "A .safetensors file, or one that torch.save wrote."},
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        self._require("file", len(self.file) == 1, "one file")
        self._require("checkpoint", self.checkpoint == "best", "best")


@dataclass(frozen=True)
class EvalSettings(Foreign, Config):
    """Evaluation of trained runs, or of weights that other code trained.

    Args:
        weights: File of weights to import, unless that was done before, and to evaluate, with the
            runs of --name or else under a new name; by default the runs that fit the config are
            evaluated.
        norm: Norm of the network of --weights; bn leaves its batch norms as they are.
    """

    weights: str | None = None
    norm: str = "bn"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.weights is None:
            unused = [n for n in ("part", "mean", "std") if getattr(self, n)]
            unused += ["layout"] * (self.layout != "plain")
            if unused:
                raise ValueError(f"{unused[0]} is for weights of other code: give --weights FILE")
        elif not Path(self.weights).is_file():
            raise ValueError(f"weights must be a file, but there is no file {self.weights}")
        else:
            self._require("checkpoint", self.checkpoint == "best", "best, as imported weights are")

    def name_in(self, path: Path | None) -> str | None:
        """Returns the config's name, or None for weights, which are named by their content."""
        return super().name_in(path) if self.weights is None else None

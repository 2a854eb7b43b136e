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
        layout: Code whose names the file uses; plain is this package, and any code whose names
            differ by a prefix alone.
        part: Key of the weights in the file where it has several, such as ema_state_dict.
        mean: Per channel, on the [0, 1] scale: what the training code subtracted from images before
            the network; none by default, since a file with its own mean and deviation has them
            inside.
        std: Per channel, what it divided by.
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
        metadata={"by_place": "A .safetensors file, or one that torch.save wrote."},
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        self._require("file", len(self.file) == 1, "one file")
        self._require("checkpoint", self.checkpoint == "best", "best")


@dataclass(frozen=True)
class EvalSettings(Foreign, Config):
    """Evaluation of trained runs, or of weights that other code trained.

    Args:
        weights: File of weights to import, unless that was done before, and to evaluate, under a
            name of their own or beside the runs of --name; by default the runs that fit the config
            are evaluated.
        norm: The network's norm, with weights only: bn leaves its batch norms as they are.
    """

    weights: str | None = None
    norm: str = "bn"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.weights is None:
            alone = [n for n in ("part", "mean", "std") if getattr(self, n)]
            alone += ["layout"] * (self.layout != "plain")
            if alone:
                raise ValueError(f"{alone[0]} is for weights of other code: give --weights FILE")
        elif not Path(self.weights).is_file():
            raise ValueError(f"weights must be a file, there is no file {self.weights}")
        else:
            self._require("checkpoint", self.checkpoint == "best", "best, as what is imported")

    def name_in(self, path: Path | None) -> str | None:
        """Returns the config's name; of weights without a name none, which their content gives."""
        return super().name_in(path) if self.weights is None else None

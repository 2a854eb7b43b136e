"""Settings of ``robustnorm search`` and ``robustnorm table2``; no torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from robustnorm.settings.base import Settings, names
from robustnorm.settings.groups import Named
from robustnorm.settings.jobs import Engine

Paths = Literal["paper", "release"]
SearchNorm = Literal["bn", "affine", "ccbn", "sabn"]
SEARCH_NORMS: tuple[SearchNorm, ...] = ("bn", "affine", "ccbn", "sabn")


@dataclass(frozen=True)
class SearchFiles(Named):
    """Files and devices; results do not depend on them.

    Args:
        data: digits, cifar10, cifar100, imagenet16-120, or the path of an image folder or its
            archive.
        data_root: Folder for downloads, unpacked archives and decoded images.
        download: Download a data set of a known name into ``data_root``.
        save_minutes: Minutes between two saves of the state.
        device: cpu, cuda, cuda:1, ...; by default a GPU if there is one.
        output: Folder of checkpoints.
        reports: Folder of tables and records.
    """

    unnamed: ClassVar[str] = "search"

    data: str = "digits"
    data_root: str = "data"
    download: bool = False
    save_minutes: float = 1.0
    device: str = "auto"
    output: str = "checkpoints"
    reports: str = "reports"


@dataclass(frozen=True)
class ComparedSearches(Settings):
    """Differences between the searches of one table.

    Args:
        norm: Norm after the convolutions of mixed operations: bn without affine (DARTS), affine (bn
            with affine), ccbn or sabn, whose affine depends on the operations before it.
        seed: Seed of weights, alpha, sampled paths, order and augmentation of the images. Weights,
            alpha and images do not depend on the norm.
    """

    norm: SearchNorm = "sabn"
    seed: int = 0


@dataclass(frozen=True)
class SearchSettings(SearchFiles, ComparedSearches):
    """Settings of one search for a cell of NAS-Bench-201 by first-order DARTS.

    Args:
        paths: Number of affine paths of ccbn and sabn: one per operation of the previous layer
            (paper: 1, 5, 5 on edges out of nodes 0, 1, 2), or one per tuple of operations on the
            previous edges (release: 1, 5, 25).
        alpha_split: Images that train alpha: half of the training images, held out from the weights
            (train), or, as in the authors' release, half of the test images (test).
        image_size: Height to which images are averaged down, a divisor of theirs; unchanged by
            default.
        padding: Pixels of zero padding before the random crop; depends on the data set by default.
        flip: Mirror images at random; depends on the data set by default.
        channels: Channels of the first of three stages; each later one has twice as many.
        cells: Cells per stage.
        batch_size: Images per step on the weights, and per step on alpha.
        steps: Steps of the cosine learning rate schedule; each is a step on the weights and one on
            alpha.
        stop_step: Steps actually taken; the paper's searches end before the cosine does.
        learning_rate: Learning rate of the weights at the first step.
        final_learning_rate: Learning rate of the weights at the end of the cosine.
        momentum: Nesterov momentum of the weights.
        weight_decay: L2 penalty on all weights, including affines.
        gradient_clipping: Largest norm of the gradient of weights and alpha together, for steps on
            the weights.
        alpha_learning_rate: Learning rate of alpha, for Adam.
        alpha_weight_decay: L2 penalty on alpha.
        record_every: Steps between two entries of alpha in the record.

    Raises:
        ValueError: On a value out of range, with what is required and what was received.
    """

    paths: Paths = "release"
    alpha_split: Literal["train", "test"] = "train"
    # Data
    image_size: int | None = None
    padding: int | None = None
    flip: bool | None = None
    # Network
    channels: int = 16
    cells: int = 5
    # Optimization
    batch_size: int = 64
    steps: int = 39_050
    stop_step: int = 27_335
    learning_rate: float = 0.025
    final_learning_rate: float = 0.001
    momentum: float = 0.9
    weight_decay: float = 5e-4
    gradient_clipping: float = 5.0
    alpha_learning_rate: float = 3e-4
    alpha_weight_decay: float = 1e-3
    record_every: int = 50

    def __post_init__(self) -> None:
        super().__post_init__()
        self._least(1, "channels", "cells", "steps", "stop_step", "record_every")
        self._least(2, "batch_size")  # the last stage may see one pixel of each image
        self._require("stop_step", self.stop_step <= self.steps, f"at most steps, {self.steps}")
        self._least(0, "weight_decay", "alpha_weight_decay", "save_minutes")
        self._seed("seed")
        for field in (
            "learning_rate",
            "final_learning_rate",
            "alpha_learning_rate",
            "gradient_clipping",
        ):
            self._require(field, getattr(self, field) > 0, "above 0")
        self._require("momentum", 0 < self.momentum < 1, "in (0, 1)")
        padding = self.padding
        self._require("padding", padding is None or 0 <= padding <= 4096, "0 to 4096, or null")
        size = self.image_size
        self._require("image_size", size is None or size >= 4, "at least 4, or null")

    @property
    def run(self) -> str:
        """Name of this search's folder and record."""
        return f"{self.norm}-seed{self.seed}"

    def to_dict(self) -> dict[str, Any]:
        """Returns the settings of a search as plain values, also for a subclass."""
        kept = names(SearchSettings)
        return {name: value for name, value in super().to_dict().items() if name in kept}


@dataclass(frozen=True)
class Table2Settings(Engine, SearchSettings):
    """Settings of the searches of Table 2, norms x seeds, and the job engine.

    Args:
        norms: Norms to search with.
        seeds: One search per norm and seed.
    """

    only_in_files: ClassVar[frozenset[str]] = names(ComparedSearches)

    norms: tuple[SearchNorm, ...] = SEARCH_NORMS
    seeds: tuple[int, ...] = (0, 1)

    def __post_init__(self) -> None:
        super().__post_init__()
        self._require("norms", bool(self.norms), "at least one")
        self._require("seeds", bool(self.seeds), "one or more")
        self._seed("seeds")

    def searches(self) -> list[SearchSettings]:
        """Returns the settings of each search, all norms of a seed before the next seed."""
        return [
            SearchSettings(**self.to_dict() | {"norm": norm, "seed": seed})
            for seed in dict.fromkeys(self.seeds)
            for norm in dict.fromkeys(self.norms)
        ]

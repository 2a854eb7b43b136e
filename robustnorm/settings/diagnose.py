"""Settings of ``robustnorm diagnose``; no torch."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from robustnorm.settings.base import Settings, names
from robustnorm.settings.config import Config


@dataclass(frozen=True)
class DiagnoseSettings(Settings):
    """Runs to compare, and the images used.

    Args:
        runs: Folders of the runs to compare.
        checkpoint: Weights to use: best, last, or epoch followed by a number.
        data: Name or path of the data, as in training; the first run's training data by default.
        data_root: Folder for downloads, unpacked archives and decoded images.
        test_limit: Largest number of test images; each is attacked once per adversarial branch.
        batches: Number of batches of these images; intervals are over batches.
        steps: PGD steps; epsilon and step size are those of the runs.
        seed: Seed of the batches and of the attack's random starts.
        device: cpu, cuda, cuda:1, ...; by default a GPU if there is one.
        network: Networks of the runs that are functions in modules; each is imported only if its
            name is typed here.
        reports: Folder of reports; results go to the first run's, under gradients/.

    Raises:
        ValueError: On a value out of range, with the requirement and the value received.
    """

    only_in_files: ClassVar[frozenset[str]] = names(Config) - {
        *("checkpoint", "data", "data_root", "test_limit", "seed", "device", "reports", "network"),
    }
    # In a config, these belong to training and evaluation.
    other_in_files: ClassVar[frozenset[str]] = frozenset({"seed", "test_limit", "network"})

    runs: list[str] = field(
        default_factory=list,
        metadata={"positional": "Folders of runs, such as checkpoints/digits/saauxbn-seed0."},
    )
    checkpoint: str = "best"
    data: str | None = None
    data_root: str = "data"
    test_limit: int = 1000
    batches: int = 10
    steps: int = 10
    seed: int = 0
    device: str = "auto"
    network: tuple[str, ...] = ()
    reports: str = "reports"

    def __post_init__(self) -> None:
        self._tag("checkpoint")
        self._least(1, "test_limit", "batches", "steps")
        self._seed("seed")
        if not self.runs or len({Path(run) for run in self.runs}) < len(self.runs):
            raise ValueError(
                "runs must be one or more different folders, such as "
                f"checkpoints/digits/saauxbn-seed0, got {' '.join(self.runs) or 'none'}"
            )

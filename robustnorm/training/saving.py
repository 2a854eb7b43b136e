"""What a run saves in its folder, when, and how many bytes that takes."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor, nn

from robustnorm.runs import Run
from robustnorm.runs.checkpoint import restore, save_checkpoint
from robustnorm.runs.described import network_source
from robustnorm.settings.config import Config
from robustnorm.system.files import write_atomically
from robustnorm.system.sealed import seal_lines
from robustnorm.system.source import versions
from robustnorm.training import distributed
from robustnorm.training.progress import EpochRecord, Position

# Bytes of an epoch's entry in a manifest and in metrics.jsonl, with test images and three branches.
_ENTRY = 4096
# Bytes of a tensor's entry in a file's header, and of the states of the global generators.
_NAME = 200
_RANDOM_STATES = 25_000


@dataclass
class Saver:
    """Saves the state of a run within and after each epoch, and restores it.

    With several processes only rank 0 writes.

    Args:
        folder: The run's folder, which must exist.
        config: Settings of the run.
        data: From ``describe_dataset``.
        model: On the training device.
        optimizer: For its parameters.
        history: One entry per finished epoch.
        best: Their highest selection score.
    """

    folder: Path
    config: Config
    data: dict[str, Any]
    model: nn.Module
    optimizer: torch.optim.Optimizer
    history: list[dict[str, Any]] = field(default_factory=list)
    best: float = -1.0

    def __post_init__(self) -> None:
        self._saved = time.monotonic()

    def save_settings(self) -> None:
        """Writes ``config.yaml``."""
        if distributed.rank():
            return
        settings = yaml.safe_dump(self.config.to_dict(), sort_keys=False)
        write_atomically(self.folder / "config.yaml", seal_lines(settings))

    def restore(self, run: Run) -> Position:
        """Loads a run's state into the model, the optimizer and the global random generators.

        Returns:
            The position to continue from.
        """
        run.check_source()
        restore(run.checkpoint, self.model, self.optimizer)
        self.history, self.best = list(run.history), run.best
        return Position(run.epoch, **run.within_epoch)

    def save_epoch(self, record: EpochRecord, device: str) -> None:
        """Saves the state after an epoch.

        Args:
            record: Record of the epoch.
            device: Name of the training device.
        """
        self.history.append(record.to_dict() | {"device": device} | self._processes())
        score = _selection_score(self.config, record)
        improved, self.best = score > self.best, max(self.best, score)
        if distributed.rank():
            return
        content = self._manifest() | {"score": score}
        # "last" comes last: a run killed before that repeats the epoch, with the same result.
        if record.epoch in self.config.keep_epochs:
            save_checkpoint(self.folder, f"epoch{record.epoch}", self.model, content)
        if improved:
            save_checkpoint(self.folder, "best", self.model, content)
        lines = "".join(json.dumps(entry) + "\n" for entry in self.history)
        write_atomically(self.folder / "metrics.jsonl", lines.encode())
        self._save_last(content)

    def save_within(self, position: Position) -> None:
        """Saves the state within an epoch."""
        if distributed.rank():
            return
        within = {"losses": position.losses, "seconds": position.seconds}
        self._save_last(self._manifest() | {"within_epoch": within})

    def is_due(self) -> bool:
        """Returns whether ``config.save_minutes`` have passed since the last save."""
        since = time.monotonic() - self._saved
        return distributed.rank() == 0 and since >= 60 * self.config.save_minutes

    def bytes_needed(self) -> int:
        """Returns an upper bound on the bytes that the run's files will take beyond the present."""
        weights = sum(map(_bytes, self.model.state_dict().values()))
        momentum = sum(map(_bytes, self.model.parameters()))
        # "last" twice, and a third time while it is written; "best"; an entry per epoch in each
        # manifest.
        last = weights + (momentum if self.config.momentum else 0) + _RANDOM_STATES
        files = 3 * last + (1 + len(self.config.keep_epochs)) * weights
        files += (5 + len(self.config.keep_epochs)) * _ENTRY * self.config.epochs
        return files - sum(path.stat().st_size for path in self.folder.glob("*.safetensors"))

    def _manifest(self) -> dict[str, Any]:
        return {
            "epoch": len(self.history),
            "best": self.best,
            "config": self.config.to_dict(),
            "dataset": self.data,
            "history": self.history,
            "processes": self._processes(),
            "versions": versions(),
            **network_source(self.config.network),
        }

    def _processes(self) -> dict[str, int]:
        batch_size = self.config.batch_size
        return {
            "world_size": distributed.world_size(),
            "batch_size": batch_size,
            "batch_size_per_process": distributed.per_process(batch_size),
        }

    def _save_last(self, content: dict[str, Any]) -> None:
        save_checkpoint(self.folder, "last", self.model, content, self.optimizer)
        self._saved = time.monotonic()


def _bytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size() + _NAME


def _selection_score(config: Config, record: EpochRecord) -> float:
    """Returns the score on held-out images that selects "best".

    It is the lowest robust accuracy of any adversarial branch, or that of the only branch; for a
    control trained without attacks, the standard accuracy of "clean".
    """
    validation = record.validation
    only = next(iter(validation.values()))
    if config.adversarial:
        return min(validation.get(branch, only).ra for branch in config.adversarial_branches)
    return validation.get("clean", only).sa

"""A run: its checkpoints on disk, and the settings and data with which they were made."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import nn

from robustnorm.data.dataset import Dataset
from robustnorm.models import NETWORKS
from robustnorm.models.building import NetworkError
from robustnorm.models.naming import describe_source
from robustnorm.runs.checkpoint import (
    Checkpoint,
    CheckpointError,
    check_built,
    find_checkpoint,
    load_checkpoint,
    read_history,
    restore,
)
from robustnorm.runs.described import build_model, place_model
from robustnorm.runs.manifest import check_manifest
from robustnorm.settings.base import names
from robustnorm.settings.config import Config
from robustnorm.settings.groups import Compared, Evaluation, Files
from robustnorm.system.errors import UsageError
from robustnorm.system.registry import some

log = logging.getLogger("robustnorm")


@dataclass(frozen=True, eq=False)
class Run:
    """A run at one of its checkpoints, which is read and hashed once, on opening.

    Args:
        folder: The run's folder, such as ``checkpoints/digits/saauxbn-seed0``.
        tag: ``"best"``, ``"last"`` or ``"epoch"`` and a number.
        checkpoint: The checkpoint with that tag.
    """

    folder: Path
    tag: str
    checkpoint: Checkpoint = field(repr=False)

    def __post_init__(self) -> None:
        check_manifest(self.manifest, f"{self.folder} at checkpoint '{self.tag}'")

    @classmethod
    def open(cls, folder: Path, tag: str = "best") -> Run:
        """Opens a checkpoint.

        Raises:
            UsageError: When there is none.
            CheckpointError: When it is damaged.
        """
        return cls(folder, tag, load_checkpoint(folder, tag))

    @classmethod
    def find(cls, folder: Path, tag: str = "best") -> Run | None:
        """Opens a checkpoint if there is one.

        Raises:
            CheckpointError: When it is damaged.
        """
        checkpoint = find_checkpoint(folder, tag)
        return None if checkpoint is None else cls(folder, tag, checkpoint)

    @property
    def name(self) -> str:
        """Name of its folder, also if that is given as the working folder."""
        return self.folder.resolve().name

    @property
    def manifest(self) -> dict[str, Any]:
        """Everything in the checkpoint except the tensors, as JSON values."""
        return self.checkpoint.manifest

    @cached_property
    def config(self) -> Config:
        """The settings that the run was started with."""
        return Config.from_dict(self.manifest["config"])

    @property
    def dataset(self) -> dict[str, Any]:
        """Description of its training data, from ``describe_dataset``."""
        data: dict[str, Any] = self.manifest["dataset"]
        return data

    @property
    def epoch(self) -> int:
        """Number of finished epochs."""
        return int(self.manifest["epoch"])

    @property
    def within_epoch(self) -> dict[str, Any]:
        """Losses and seconds of the steps of an unfinished epoch; empty otherwise."""
        within: dict[str, Any] = self.manifest.get("within_epoch", {})
        return within

    @property
    def best(self) -> float:
        """Highest selection score so far."""
        return float(self.manifest.get("best", -1.0))

    @property
    def history(self) -> list[dict[str, Any]]:
        """One entry per epoch up to this checkpoint."""
        entries: list[dict[str, Any]] = self.manifest["history"]
        return entries

    @property
    def whole_history(self) -> list[dict[str, Any]]:
        """One entry per epoch of the run, including those after this checkpoint."""
        newest = None if self.tag == "last" else read_history(self.folder)
        return self.history if newest is None else newest

    @property
    def sha256(self) -> str:
        """Hash of the file of tensors."""
        return self.checkpoint.sha256

    @property
    def imported(self) -> dict[str, str]:
        """File, sha256 and layout of weights trained by other code; empty for our runs."""
        imported: dict[str, str] = self.manifest.get("imported", {})
        return imported

    @property
    def processes(self) -> int:
        """Number of processes that trained it."""
        return int(self.manifest.get("processes", {}).get("world_size", 1))

    def network(self, device: torch.device | None = None) -> nn.Module:
        """Returns the trained network in evaluation mode.

        Args:
            device: Where to move the network, in the memory format of its settings; by default it
                stays on the CPU in torch's format.

        Raises:
            CheckpointError: When the weights do not fit the settings.
        """
        try:
            check_built(self.checkpoint, lambda: build_model(self.config, self.dataset))
        except NetworkError as error:  # other code may need values to build its network
            if self.config.network in NETWORKS:
                raise CheckpointError(
                    f"the checkpoint's network cannot be built ({error})"
                ) from error
        model = build_model(self.config, self.dataset)
        self.check_source()
        restore(self.checkpoint, model)
        if device is not None:
            place_model(model, device, channels_last=self.config.channels_last)
        return model.eval()

    def check_source(self) -> None:
        """Warns when the code of the network, which was built before, is not that of the run."""
        was, name = self.manifest.get("network_source", {}), self.config.network
        now = NETWORKS.source(name)
        if was and was != now:
            log.warning(
                "%s: the code of network %s has changed since this checkpoint was written (%s "
                "then, %s now); what it computes may have changed, too",
                *(self.folder, name, describe_source(was), describe_source(now)),
            )

    def check_data(self, dataset: Dataset) -> None:
        """Raises a UsageError when the run was trained on other data.

        Data without training images can evaluate any run with the same classes and channels;
        classes without names are taken to be numbered like the run's.
        """
        mine = self.dataset
        if not len(dataset.train):
            classes, channels = list(dataset.classes), dataset.test.images.shape[1]
            numbered = classes == [str(label) for label in range(len(classes))]
            same = classes == mine["classes"] or (numbered and len(classes) <= len(mine["classes"]))
            if not same or channels != mine["channels"]:
                raise UsageError(
                    f"{self.folder} takes images of {mine['channels']} channel(s) in the "
                    f"{len(mine['classes'])} classes {some(mine['classes'])}; {dataset.name} has "
                    f"{channels} channel(s) and the {len(classes)} classes {some(classes)}; give "
                    "other data with --data"
                )
            return
        if mine["sha256"] != dataset.sha256:
            raise UsageError(
                f"{self.folder} was trained on {mine['name']} (content {mine['sha256'][:12]}), "
                f"but the data given are {dataset.name} ({dataset.sha256[:12]}); give the same "
                "data with --data, or another --name"
            )

    def check_settings(self, config: Config) -> None:
        """Raises a UsageError when the run was started with other settings."""
        differences = config.differences(self.config, names(Files, Evaluation))
        if differences:
            raise UsageError(
                f"{self.folder} holds a run with other settings ({differences}); continue it with "
                "those, choose another --name, or remove that folder"
            )


def load_model(
    folder: Path, tag: str = "best", *, network: str = ""
) -> tuple[nn.Module, dict[str, Any]]:
    """Returns the trained network of a run in evaluation mode, on the CPU, and its manifest.

    Args:
        folder: The run's folder, such as ``checkpoints/digits/saauxbn-seed0``.
        tag: ``"best"``, ``"last"`` or ``"epoch"`` and a number.
        network: Its network if it is a function in a module, such as ``mypkg.nets:wrn``; the module
            is imported only if its name is given here.

    Raises:
        CheckpointError: When it is missing or damaged.
        UsageError: When its network is in a module and was not given, or cannot be built.
    """
    run = Run.open(folder, tag)
    with NETWORKS.typed(network):
        return run.network(), run.manifest


def run_folders(config: Config) -> list[Path]:
    """Returns the folders under the config's name, sorted."""
    return sorted(path for path in config.folder.parent.glob("*") if path.is_dir())


def find_runs(config: Config, folders: Sequence[Path] | None = None) -> list[Run]:
    """Returns the runs that have the checkpoint ``config.checkpoint``.

    A run that was stopped within an epoch has no "last" until that epoch is finished.

    Args:
        config: The settings.
        folders: Folders of the runs; all under the config's name by default.
    """
    folders = run_folders(config) if folders is None else folders
    found = [Run.find(folder, config.checkpoint) for folder in folders]
    return [run for run in found if run is not None and not run.within_epoch]


def setting_differences(config: Config, run: Run) -> str:
    """Describes how a run's settings differ from the config's; "" if it fits.

    Compared runs may differ in norm and seed; a shortened run fits too and is reported with its
    number of epochs.
    """
    ignore = names(Files, Evaluation, Compared) | {"epochs", "keep_epochs"}
    return config.differences(run.config, ignore)


def is_trained(config: Config, dataset: Dataset | None = None) -> bool:
    """Returns whether the config's run has finished all epochs.

    Args:
        config: Settings of the run.
        dataset: The data that it must have been trained on; any by default.

    Raises:
        UsageError: When its folder holds a run with other settings or data.
        CheckpointError: When its checkpoint is damaged.
    """
    run = Run.find(config.folder, "last")
    if run is None:
        return False
    run.check_settings(config)
    if dataset is not None:
        run.check_data(dataset)
    return run.epoch == config.epochs

"""A run: the objects that its settings describe, and its checkpoints on disk."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import nn

from robustnorm.data import load_dataset
from robustnorm.data.dataset import Augmentation, Dataset
from robustnorm.models import NETWORKS
from robustnorm.models.building import NetworkError, build_network, usable
from robustnorm.models.naming import in_words
from robustnorm.runs.checkpoint import (
    Checkpoint,
    CheckpointError,
    check_built,
    find_checkpoint,
    load_checkpoint,
    read_history,
    restore,
)
from robustnorm.runs.manifest import check_manifest
from robustnorm.settings.base import names
from robustnorm.settings.config import Config
from robustnorm.settings.groups import Compared, Evaluation, Where
from robustnorm.system.errors import UsageError
from robustnorm.system.registry import some

log = logging.getLogger("robustnorm")

IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}


def run_folder(config: Config) -> Path:
    """Returns the folder of a run's checkpoints."""
    return Path(config.output) / str(config.name) / config.run


def to_channels_last(model: nn.Module) -> None:
    """Converts the weights to the channels-last memory format, in place."""
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def place_model(model: nn.Module, config: Config, device: torch.device) -> None:
    """Moves a network to the device, in its settings' memory format, in place."""
    model.to(device)
    if config.channels_last:
        to_channels_last(model)


def load_data(config: Config) -> Dataset:
    """Loads the data set that the settings name."""
    return load_dataset(
        config.data,
        root=Path(config.data_root),
        download=config.download,
        resize=config.resize,
        stream=config.stream,
        workers=config.data_workers,
    )


def augmentation(config: Config, dataset: Dataset) -> Augmentation:
    """Returns the settings' augmentation, with the data set's defaults."""
    given = dataset.augmentation
    return Augmentation(
        padding=given.padding if config.padding is None else config.padding,
        flip=given.flip if config.flip is None else config.flip,
        crop_area=config.crop_area,
    )


def describe_dataset(dataset: Dataset, train_images: int) -> dict[str, Any]:
    """Returns a checkpoint's description of its data, sufficient to build the network."""
    return {
        "name": dataset.name,
        "sha256": dataset.sha256,
        "classes": list(dataset.classes),
        "channels": dataset.train.images.shape[1],
        "image_size": list(dataset.train.images.shape[2:]),
        "mean": list(dataset.mean),
        "std": list(dataset.std),
        "train_images": train_images,
        "test_images": len(dataset.test),
    }


def network_arguments(config: Config, data: dict[str, Any]) -> dict[str, Any]:
    """Returns the arguments for building ``config.network``.

    Args:
        config: The settings.
        data: From ``describe_dataset``.
    """
    mean, std = {
        "dataset": (data["mean"], data["std"]),
        "imagenet": (IMAGENET["mean"], IMAGENET["std"]),
        "none": ((0.0,) * data["channels"], (1.0,) * data["channels"]),
    }[config.input_normalization]
    if "normalization" in data:  # of imported weights
        mean, std = data["normalization"]["mean"], data["normalization"]["std"]
    arguments: dict[str, Any] = {
        "norm": config.norm,
        "num_classes": len(data["classes"]),
        "width": config.width,
        "in_channels": data["channels"],
        "mean": mean,
        "std": std,
        "branches": ("clean", *config.adversarial_branches),
        "final_norm": config.final_norm,
    }
    return usable(config.network, arguments)


def build_model(config: Config, data: dict[str, Any]) -> nn.Module:
    """Builds the network of the settings, initialized from ``config.seed``.

    Args:
        config: The settings.
        data: From ``describe_dataset``.
    """
    arguments = network_arguments(config, data)
    with torch.random.fork_rng(devices=[]):
        _ = NETWORKS[config.network]  # before seeding: importing a module may draw random numbers
        torch.manual_seed(config.seed)
        return build_network(config.network, arguments, config.network_args)


def network_source(config: Config) -> dict[str, dict[str, str]]:
    """Returns the entry of a manifest that tells of a built network's code; {} for our own."""
    source = NETWORKS.source(config.network)
    return {"network_source": source} if source else {}


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
            device: The network's device and memory format (from its settings); by default the CPU
                and torch's format.

        Raises:
            CheckpointError: When the weights do not fit the settings.
        """
        try:
            check_built(self.checkpoint, lambda: build_model(self.config, self.dataset))
        except NetworkError as error:  # other code may need values to build its network
            if self.config.network in NETWORKS:
                raise CheckpointError(f"the checkpoint is of no network ({error})") from error
        model = build_model(self.config, self.dataset)
        self.check_source()
        restore(self.checkpoint, model)
        if device is not None:
            place_model(model, self.config, device)
        return model.eval()

    def check_source(self) -> None:
        """Warns when the network's code, once built, is not that of the run."""
        was, name = self.manifest.get("network_source", {}), self.config.network
        now = NETWORKS.source(name)
        if was and was != now:
            log.warning(
                "%s: the code of network %s changed since this checkpoint was written (%s then, "
                "%s now); what it computes may have changed, too",
                *(self.folder, name, in_words(was), in_words(now)),
            )

    def check_data(self, dataset: Dataset) -> None:
        """Raises a UsageError when the run was trained on other data.

        Data without training images serve to evaluate any run with the same classes and channels;
        classes without names are numbered as the run's.
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
                f"the data given is {dataset.name} ({dataset.sha256[:12]}); give the same data "
                "with --data, or another --name"
            )

    def check_settings(self, config: Config) -> None:
        """Raises a UsageError when the run was started with other settings."""
        differences = _differences(config, self.config, names(Where, Evaluation))
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
        network: Its network where that is a function in a module, such as ``mypkg.nets:wrn``, which
            is imported only if its name is given here.

    Raises:
        CheckpointError: When it is missing or damaged.
        UsageError: When its network is in a module and was not given, or cannot be built.
    """
    run = Run.open(folder, tag)
    with NETWORKS.typed(network):
        return run.network(), run.manifest


def find_runs(config: Config) -> list[Run]:
    """Returns the runs under the config's name that have the checkpoint ``config.checkpoint``.

    A run that was stopped within an epoch has no "last" until that epoch is finished.

    Returns:
        Sorted by the name of their folders.
    """
    parent = Path(config.output) / str(config.name)
    folders = sorted(path for path in parent.glob("*") if path.is_dir())
    found = [Run.find(folder, config.checkpoint) for folder in folders]
    return [run for run in found if run is not None and not run.within_epoch]


def misfit(config: Config, run: Run) -> str:
    """Describes how a run's settings differ from the config's; "" when it fits.

    Compared runs may differ in norm and seed; a shortened run fits too and is reported with its
    number of epochs.
    """
    ignore = names(Where, Evaluation, Compared) | {"epochs", "keep_epochs"}
    return _differences(config, run.config, ignore)


def is_trained(config: Config, dataset: Dataset | None = None) -> bool:
    """Returns whether the config's run has finished all epochs.

    Args:
        config: Settings of the run.
        dataset: The data that it must have been trained on; any by default.

    Raises:
        UsageError: When its folder holds a run with other settings or data.
        CheckpointError: When its checkpoint is damaged.
    """
    run = Run.find(run_folder(config), "last")
    if run is None:
        return False
    run.check_settings(config)
    if dataset is not None:
        run.check_data(dataset)
    return run.epoch == config.epochs


def _differences(config: Config, saved: Config, ignore: frozenset[str]) -> str:
    return ", ".join(
        f"{field}: {theirs} there, {mine} here"
        for field, (mine, theirs) in config.differences(saved, ignore).items()
    )

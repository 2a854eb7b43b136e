"""A run as its settings describe it: its folder, its data, its network."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from robustnorm.data import load_dataset
from robustnorm.data.dataset import Augmentation, Dataset
from robustnorm.models.resnet import preact_resnet18, resnet18
from robustnorm.runs.checkpoint import (
    Checkpoint,
    check_fits,
    load_checkpoint,
    read_manifest,
    restore,
)
from robustnorm.settings.config import COMPARED, WHAT_TO_EVALUATE, WHERE, Config
from robustnorm.system.errors import UsageError

_IMAGENET_MEAN = (0.485, 0.456, 0.406)
_IMAGENET_STD = (0.229, 0.224, 0.225)


def run_folder(config: Config) -> Path:
    """Returns the folder of a run's checkpoints."""
    return Path(config.output) / str(config.name) / config.run


def resolve_device(name: str) -> torch.device:
    """Returns the device of that name; "auto" is a GPU where there is one.

    Raises:
        UsageError: When there is no such device.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise UsageError(f"device '{name}' cannot be used ({reason}); try --device cpu") from error
    return torch.device(name)


def device_name(device: torch.device) -> str:
    """Returns the device as a report names it."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"CPU, {torch.get_num_threads()} threads ({torch.backends.cpu.get_cpu_capability()})"


def to_channels_last(model: nn.Module) -> None:
    """Lays the weights out for channels-last convolutions, in place."""
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def place_model(model: nn.Module, config: Config, device: torch.device) -> None:
    """Moves a network to the device, in the memory format of its settings, in place."""
    model.to(device)
    if config.channels_last:
        to_channels_last(model)


def load_data(config: Config) -> Dataset:
    """Returns the data set that the settings name."""
    return load_dataset(config.data, root=Path(config.data_root), download=config.download)


def augmentation(config: Config, dataset: Dataset) -> Augmentation:
    """Returns the augmentation of the settings, where they are silent that of the data set."""
    given = dataset.augmentation
    return Augmentation(
        padding=given.padding if config.padding is None else config.padding,
        flip=given.flip if config.flip is None else config.flip,
    )


def describe_dataset(dataset: Dataset, train_images: int) -> dict[str, Any]:
    """Returns what a checkpoint says of its data, enough to build the network without them."""
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
    """Returns the arguments with which ``config.network`` is built.

    Args:
        config: The settings.
        data: From ``describe_dataset``.
    """
    mean, std = {
        "dataset": (data["mean"], data["std"]),
        "imagenet": (_IMAGENET_MEAN, _IMAGENET_STD),
        "none": ((0.0,) * data["channels"], (1.0,) * data["channels"]),
    }[config.input_normalization]
    arguments: dict[str, Any] = {
        "norm": config.norm,
        "num_classes": len(data["classes"]),
        "width": config.width,
        "in_channels": data["channels"],
        "mean": mean,
        "std": std,
        "branches": ("clean", *config.adversarial_branches),
    }
    if config.network == "preact_resnet18":
        arguments["final_norm"] = config.final_norm
    return arguments


def build_model(config: Config, data: dict[str, Any]) -> nn.Module:
    """Returns the network of the settings, its weights drawn from ``config.seed``.

    Args:
        config: The settings.
        data: From ``describe_dataset``.
    """
    arguments = network_arguments(config, data)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        if config.network == "resnet18":
            return resnet18(**arguments)
        return preact_resnet18(**arguments)


def load_model(folder: Path, tag: str = "best") -> tuple[nn.Module, dict[str, Any]]:
    """Returns the trained network of a run in evaluation mode, on the CPU, and its manifest.

    Args:
        folder: Of the run, such as ``checkpoints/digits/saauxbn-seed0``.
        tag: ``"best"``, ``"last"`` or ``"epoch"`` and a number.

    Raises:
        CheckpointError: When it is missing or damaged.
    """
    checkpoint = load_checkpoint(folder, tag)
    return build_saved(checkpoint).eval(), checkpoint.manifest


def build_saved(checkpoint: Checkpoint) -> nn.Module:
    """Returns the network of a checkpoint with its weights, in train mode, on the CPU.

    Raises:
        CheckpointError: When the weights are not such as its settings tell.
    """
    config = Config.from_dict(checkpoint.manifest["config"])
    with torch.device("meta"):  # a network of a size that its weights do not have is not built
        check_fits(checkpoint, build_model(config, checkpoint.manifest["dataset"]))
    model = build_model(config, checkpoint.manifest["dataset"])
    restore(checkpoint, model)
    return model


def find_runs(config: Config) -> dict[Path, dict[str, Any]]:
    """Returns the runs under the config's name that have the checkpoint to evaluate.

    A run that was stopped within an epoch has no "last" until it has finished that epoch.

    Returns:
        Folder to manifest of the tag ``config.checkpoint``, in alphabetical order.
    """
    parent = Path(config.output) / str(config.name)
    folders = sorted(path for path in parent.glob("*") if path.is_dir())
    manifests = {folder: read_manifest(folder, config.checkpoint) for folder in folders}
    return {
        folder: manifest
        for folder, manifest in manifests.items()
        if manifest is not None and "within_epoch" not in manifest
    }


def misfit(config: Config, manifest: dict[str, Any]) -> str:
    """Returns how a checkpoint's settings differ from the config's, "" when it fits.

    Runs that a config compares differ in norm and seed; a shortened run fits too and is reported
    with its number of epochs.
    """
    saved = Config.from_dict(manifest["config"])
    ignore = WHERE | WHAT_TO_EVALUATE | COMPARED | {"epochs", "keep_epochs"}
    return _differences(config, saved, ignore)


def is_trained(config: Config, dataset: Dataset | None = None) -> bool:
    """Returns whether the config's run has all its epochs.

    Args:
        config: Settings of the run.
        dataset: That it must have been trained on; any by default.

    Raises:
        UsageError: When its folder holds a run of other settings or data.
        CheckpointError: When its checkpoint is damaged.
    """
    folder = run_folder(config)
    manifest = read_manifest(folder, "last")
    if manifest is None:
        return False
    check_same_run(config, manifest, folder)
    if dataset is not None:
        check_same_dataset(manifest, dataset, folder)
    return bool(manifest["epoch"] == config.epochs)


def check_same_run(config: Config, manifest: dict[str, Any], folder: Path) -> None:
    """Raises a UsageError when the folder's run was started with other settings."""
    saved = Config.from_dict(manifest["config"])
    differences = _differences(config, saved, WHERE | WHAT_TO_EVALUATE)
    if differences:
        raise UsageError(
            f"{folder} holds a run with other settings ({differences}); continue it with those, "
            "choose another --name, or remove that folder"
        )


def check_same_dataset(manifest: dict[str, Any], dataset: Dataset, folder: Path) -> None:
    """Raises a UsageError when a checkpoint was trained on other data."""
    if manifest["dataset"]["sha256"] != dataset.sha256:
        raise UsageError(
            f"{folder} was trained on {manifest['dataset']['name']} "
            f"(content {manifest['dataset']['sha256'][:12]}), the data given is {dataset.name} "
            f"({dataset.sha256[:12]}); give the same data with --data, or another --name"
        )


def _differences(config: Config, saved: Config, ignore: frozenset[str]) -> str:
    return ", ".join(
        f"{field}: {theirs} there, {mine} here"
        for field, (mine, theirs) in config.differences(saved, ignore).items()
    )

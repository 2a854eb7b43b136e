"""What the settings of a run describe: its data and its network."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import nn

from robustnorm.data import load_dataset
from robustnorm.data.dataset import Dataset
from robustnorm.models import NETWORKS
from robustnorm.models.building import build_network, relevant_arguments
from robustnorm.settings.base import names
from robustnorm.settings.config import Config
from robustnorm.settings.groups import Files

IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}


def to_channels_last(model: nn.Module) -> None:
    """Converts the tensors of rank 4 to the channels-last memory format, in place."""
    for tensor in (*model.parameters(), *model.buffers()):
        if tensor.dim() == 4:  # model.to would refuse the weights of 3d convolutions
            tensor.data = tensor.data.to(memory_format=torch.channels_last)


def place_model(model: nn.Module, device: torch.device, *, channels_last: bool) -> None:
    """Moves a network to the device and memory format, in place."""
    model.to(device)
    if channels_last:
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


_load_once = lru_cache(maxsize=1)(load_data)


def load_data_once(config: Config) -> Dataset:
    """Loads the data and keeps them for all jobs of this process, also those of other configs."""
    return _load_once(Config(**{name: getattr(config, name) for name in names(Files)}))


def describe_dataset(dataset: Dataset, train_images: int) -> dict[str, Any]:
    """Returns the description of its data in a checkpoint, sufficient to build the network."""
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
    return relevant_arguments(config.network, arguments)


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


def network_source(name: str) -> dict[str, dict[str, str]]:
    """Returns a manifest's entry about the code of a network that was built; {} for our own."""
    source = NETWORKS.source(name)
    return {"network_source": source} if source else {}

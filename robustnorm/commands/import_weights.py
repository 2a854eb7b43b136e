"""Imports weights that other code trained as a run, so that they can be evaluated like ours."""

from __future__ import annotations

import hashlib
from math import isfinite
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from robustnorm.data.dataset import Dataset
from robustnorm.exchange.foreign import find_weights
from robustnorm.exchange.loaders import load_released
from robustnorm.exchange.matching import classes_of, match_names, normalization_of
from robustnorm.models.building import check_output, normalizations, normalizes_itself
from robustnorm.models.resnet import LEAST_STD, Normalized
from robustnorm.runs.checkpoint import save_checkpoint
from robustnorm.runs.described import (
    IMAGENET,
    build_model,
    describe_dataset,
    load_data,
    network_source,
)
from robustnorm.settings.config import Config
from robustnorm.settings.import_weights import Foreign, ImportSettings
from robustnorm.system.errors import RefusedFileError, UsageError
from robustnorm.system.registry import some


def import_run(settings: ImportSettings) -> str:
    """Writes a run of imported weights; returns a description.

    Raises:
        UsageError: When the folder already exists; otherwise as ``import_weights``.
    """
    folder = settings.folder
    if folder.exists() and next(folder.iterdir(), None):
        raise UsageError(f"{folder} already exists; choose another --name or --seed, or remove it")
    return (
        f"{import_weights(settings)}. Evaluate them with the same settings: robustnorm eval --name "
        f"{settings.name} ..."
    )


def import_weights(settings: ImportSettings, dataset: Dataset | None = None) -> str:
    """Writes a run whose checkpoint "best" holds the weights of a file; returns a description.

    The manifest records the file; nothing is known of the training.

    Args:
        settings: The file, and its network and data as the settings of a run.
        dataset: The data that they name, if loaded already.

    Raises:
        RefusedFileError: When the file cannot be trusted or does not fit the network.
        UsageError: When a layout's branches or the data's classes do not fit, or it is not clear
            how the network's input is normalized.
        DataError: When the data are unusable.
    """
    config = Config.of(settings)
    folder, file = config.folder, Path(settings.file[0])
    found = find_weights(file, settings.part)
    dataset = dataset or load_data(config)
    info = describe_dataset(dataset, train_images=0)
    model = build_model(config, info)
    info["classes"] = _classes(file, found.state, model, dataset)
    # Other code may normalize inside its network, with constants or with buffers of any name.
    inner = _without_normalization(model).state_dict()
    in_network = not normalizes_itself(config.network) and bool(normalizations(inner))
    if normalization := _normalization(file, found.state, settings, info, in_network=in_network):
        info["normalization"] = normalization
    model = build_model(config, info)
    check_output(model, config.network, info)
    weights = _weights(found.state, model, in_network=in_network)
    try:
        load_released(model, weights, settings.layout, ("clean", *config.adversarial_branches))
    except RefusedFileError as error:
        height, width = info["image_size"]
        raise RefusedFileError(
            f"{file}: {error}; the network was built for {info['name']}, images of "
            f"{info['channels']} channel(s), {width}x{height} pixels"
        ) from error
    except ValueError as error:
        raise UsageError(
            f"{file} does not have the branches that the settings name: {error}"
        ) from error
    manifest = {
        "epoch": 0,
        "config": config.to_dict(),
        "dataset": info,
        "history": [],
        **network_source(config.network),
        "imported": {
            "file": file.name,
            "sha256": digest_of(file),
            "asked": asked(settings),
            "layout": settings.layout,
            "part": found.part,
            "normalization": normalization_of(model.state_dict()),
        },
    }
    save_checkpoint(folder, "best", model, manifest)
    others = f" (--part can choose {', '.join(found.others)} instead)" if found.others else ""
    part = f", part '{found.part}'" if found.part else ""
    return (
        f"{folder}: {len(found.state)} tensors from {file}{part}{others}, read as "
        f"'{settings.layout}'; {_normalized(model)}"
    )


def digest_of(file: Path) -> str:
    """Returns the SHA-256 of a file.

    Raises:
        RefusedFileError: When it cannot be read.
    """
    try:
        with file.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise RefusedFileError(f"{file} cannot be read ({error.strerror or error})") from error


def asked(settings: Foreign) -> dict[str, Any]:
    """Returns the settings that say how to read a file, as plain values."""
    return {key: getattr(settings, key) for key in ("layout", "part")} | {
        key: list(getattr(settings, key)) for key in ("mean", "std")
    }


def _classes(file: Path, state: dict[str, Tensor], model: nn.Module, dataset: Dataset) -> list[str]:
    """Returns the names of the weights' classes.

    Classes that are only numbered may be more than those that occur in the data.

    Raises:
        UsageError: When the weights and the data differ in the number of classes.
    """
    classes, wanted = list(dataset.classes), _without_normalization(model).state_dict()
    number = classes_of(match_names(state, wanted), wanted, len(classes))
    if number is None:
        return classes
    if number > len(classes) and classes == [str(label) for label in range(len(classes))]:
        return [str(label) for label in range(number)]
    raise UsageError(
        f"{file} holds a network with {number} classes, but {dataset.name} has {len(classes)} "
        f"({some(classes)}): choose data with the same classes with --data"
    )


def _normalization(
    file: Path,
    state: dict[str, Tensor],
    settings: ImportSettings,
    info: dict[str, Any],
    *,
    in_network: bool,
) -> dict[str, list[float]]:
    """Returns the mean and standard deviation to apply before the network; {} for none.

    Raises:
        UsageError: Unless it is clear how the network's input is normalized.
    """
    in_file = normalization_of(state)
    given = {"mean": [*settings.mean], "std": [*settings.std]} if settings.mean else {}
    if given and (in_file or in_network):
        where = settings.network if in_network else file
        raise UsageError(f"{where} has its own mean and std: leave out --mean and --std")
    if in_network:
        return {}
    if (in_file or given) and settings.input_normalization == "none":
        where = f"{file} has" if in_file else "--mean and --std are"
        raise UsageError(f"{where} a normalization: leave out --input_normalization none")
    chosen = in_file or given
    if settings.input_normalization == "imagenet":
        chosen = chosen or {name: [*values] for name, values in IMAGENET.items()}
    if not chosen and settings.input_normalization == "dataset":
        raise UsageError(
            f"{file} does not contain the mean and std of its input: set --input_normalization "
            "none if its network takes images in [0, 1] as they are, or set --mean and --std to "
            "those of its training code, such as --mean 0.4914,0.4822,0.4465 --std "
            "0.2470,0.2435,0.2616"
        )
    channels = info["channels"]
    for name, values in chosen.items():
        if len(values) != channels or not all(map(isfinite, values)):
            raise UsageError(
                f"{name} must have a number for each of the {channels} channel(s) of "
                f"{info['name']}, got {values}: choose the data of the weights with --data"
            )
    if chosen and min(chosen["std"]) < LEAST_STD:
        raise UsageError(f"std must be at least {LEAST_STD} in every channel, got {chosen['std']}")
    return chosen


def _weights(state: dict[str, Tensor], model: nn.Module, *, in_network: bool) -> dict[str, Tensor]:
    """Returns a file's tensors, with the normalization of ``model`` if they have none.

    Args:
        state: The file's tensors.
        model: Built with the chosen normalization, which may be a layer before the network.
        in_network: Whether the network's own code normalizes.
    """
    in_file = {name for pair in normalizations(state) for name in pair}
    if in_network and in_file:
        return state
    weights = {name: value for name, value in state.items() if name not in in_file}
    if isinstance(model, Normalized):
        inner = match_names(weights, model.network.state_dict())
        weights = {f"network.{name}": value for name, value in inner.items()}
    made = model.state_dict()
    return weights | {name: made[name] for pair in normalizations(made) for name in pair}


def _without_normalization(model: nn.Module) -> nn.Module:
    return model.network if isinstance(model, Normalized) else model


def _normalized(model: nn.Module) -> str:
    inside = normalization_of(model.state_dict())
    if not inside:
        return "its input is not normalized"
    mean, std = (", ".join(f"{value:.4g}" for value in inside[name]) for name in ("mean", "std"))
    return f"its input is normalized inside the network, with mean {mean} and std {std}"

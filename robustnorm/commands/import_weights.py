"""Imports weights that other code trained as a run, so that they can be evaluated like ours."""

from __future__ import annotations

import hashlib
from dataclasses import fields
from pathlib import Path

import torch
from torch import Tensor, nn

from robustnorm.exchange.foreign import find_weights
from robustnorm.exchange.loaders import load_released
from robustnorm.exchange.matching import match_names, normalization_of
from robustnorm.runs.checkpoint import save_checkpoint
from robustnorm.runs.run import build_model, describe_dataset, load_data, run_folder
from robustnorm.settings.config import Config
from robustnorm.settings.import_weights import ImportSettings
from robustnorm.system.errors import RefusedFileError, UsageError


def import_run(settings: ImportSettings) -> str:
    """Writes a run whose checkpoint "best" holds the weights of a file; returns a description.

    The manifest records the file; nothing is known of the training.

    Args:
        settings: The file, and its network and data as the settings of a run.

    Raises:
        RefusedFileError: When the file is not to be trusted or does not fit the network.
        UsageError: When the folder already holds a run, or a layout's branches do not fit.
        DataError: From the data.
    """
    config = Config(**{field.name: getattr(settings, field.name) for field in fields(Config)})
    folder, file = run_folder(config), Path(settings.file[0])
    if folder.exists():
        raise UsageError(f"{folder} already exists; choose another --name or --seed, or remove it")
    found = find_weights(file, settings.part)
    info = describe_dataset(load_data(config), train_images=0)
    model = build_model(config, info)
    weights = dict(found.state)
    if settings.mean:
        given = {"normalize.mean": settings.mean, "normalize.std": settings.std}
        weights |= {name: torch.tensor(value).view(-1, 1, 1) for name, value in given.items()}
    _check_normalized_once(file, found.state, model, settings)
    try:
        load_released(model, weights, settings.layout, ("clean", *config.adversarial_branches))
    except RefusedFileError as error:
        raise RefusedFileError(f"{file}: {error}") from error
    except ValueError as error:
        raise UsageError(
            f"{file} does not hold the branches that the settings name: {error}"
        ) from error
    with file.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    manifest = {
        "epoch": 0,
        "config": config.to_dict(),
        "dataset": info,
        "history": [],
        "imported": {
            "file": file.name,
            "sha256": digest,
            "layout": settings.layout,
            "part": found.part,
            "normalization": normalization_of(model.state_dict()),
        },
    }
    save_checkpoint(folder, "best", model, manifest)
    also = f" (also there: {', '.join(found.others)}; --part takes them)" if found.others else ""
    under = f" under '{found.part}'" if found.part else ""
    return (
        f"{folder}: {len(found.state)} tensors of {file}{under}{also}, read as "
        f"'{settings.layout}'; {_normalized(model)}. Evaluate them with the same settings: "
        f"robustnorm eval --name {config.name} ..."
    )


def _check_normalized_once(
    file: Path, state: dict[str, Tensor], model: nn.Module, settings: ImportSettings
) -> None:
    """Raises a UsageError unless it is clear how the network's input is normalized."""
    wanted = model.state_dict()
    inside = normalization_of(match_names(state, wanted))
    if inside and settings.mean:
        raise UsageError(f"{file} holds mean and deviation of its own: leave out --mean and --std")
    if (inside or settings.mean) and "normalize.mean" not in wanted:
        where = f"{file} holds" if inside else "--mean and --std are"
        raise UsageError(
            f"{where} a normalization, which the network of these settings does not have: leave "
            "out --input_normalization none"
        )
    if "normalize.mean" in wanted and not inside and not settings.mean:
        raise UsageError(
            f"{file} holds no mean and deviation of its input: give --input_normalization none if "
            "its network takes images in [0, 1] as they are, or --mean and --std as its training "
            "code normalizes, such as --mean 0.4914,0.4822,0.4465 --std 0.2470,0.2435,0.2616"
        )


def _normalized(model: nn.Module) -> str:
    inside = normalization_of(model.state_dict())
    if not inside:
        return "its input is not normalized"
    mean, std = (", ".join(f"{value:.4g}" for value in inside[name]) for name in ("mean", "std"))
    return f"its input is normalized inside, by mean {mean} and deviation {std}"

"""Imports weights that other code trained as a run, so that they can be evaluated like ours."""

from __future__ import annotations

import hashlib
from dataclasses import fields
from pathlib import Path

from robustnorm.exchange.foreign import read_weights
from robustnorm.exchange.loaders import load_released
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
    weights = read_weights(file)
    info = describe_dataset(load_data(config), train_images=0)
    model = build_model(config, info)
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
        "imported": {"file": file.name, "sha256": digest, "layout": settings.layout},
    }
    save_checkpoint(folder, "best", model, manifest)
    return (
        f"{folder}: {len(weights)} tensors of {file}, read as '{settings.layout}'. Evaluate them "
        f"with the same settings: robustnorm eval --name {config.name} ..."
    )

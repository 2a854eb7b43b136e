"""Runs on disk: one network and one record per row and seed."""

from __future__ import annotations

import json
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from robustnorm.applications.style.data import Sources, training_batches
from robustnorm.applications.style.encoder import VGG19_DEPTHS, VGG19_WIDTHS, Encoder
from robustnorm.applications.style.encoders import DescribedEncoder, check_same, figure_folder
from robustnorm.applications.style.network import StyleNetwork
from robustnorm.applications.style.training import Batch, Progress, make_optimizer, train
from robustnorm.runs.checkpoint import (
    find_checkpoint,
    load_checkpoint,
    restore,
    save_checkpoint,
)
from robustnorm.settings.base import names
from robustnorm.settings.style import StyleFiles, StyleSettings
from robustnorm.system.device import device_name
from robustnorm.system.errors import UsageError
from robustnorm.system.files import write_atomically
from robustnorm.system.locks import exclusive
from robustnorm.system.sealed import seal
from robustnorm.system.stopping import ShouldStop


def split_row(row: str) -> tuple[str, str]:
    """Returns norm and content target of a row.

    Examples:
        >>> split_row("saadain"), split_row("saadain-detached")
        (('saadain', 'moving'), ('saadain', 'detached'))
    """
    norm, _, target = row.partition("-")
    return norm, target or "moving"


def describe_run(
    row: str, seed: int, settings: StyleSettings, sources: Sources, described: DescribedEncoder
) -> dict[str, Any]:
    """Returns settings, pictures and encoder of a run, as its checkpoint and record hold them."""
    chosen = {k: v for k, v in settings.to_dict().items() if k not in names(StyleFiles)}
    return {
        "config": chosen | {"vgg": settings.vgg is not None, "row": row, "seed": seed},
        "dataset": sources.describe(),
        "encoder": described.about,
    }


def train_style(
    row: str,
    seed: int,
    settings: StyleSettings,
    sources: Sources,
    described: DescribedEncoder,
    pairs: Sequence[Batch],
    device: torch.device,
    should_stop: ShouldStop,
) -> Path:
    """Trains one network, or continues it, and writes its record.

    Args:
        row: Name of the row.
        seed: Seed of the run.
        settings: Settings of the figure.
        sources: The pictures.
        described: The encoder, on the device.
        pairs: The validation pairs, on the device.
        device: Training device.
        should_stop: Called before each step.

    Returns:
        The record's path.

    Raises:
        UsageError: When the folder holds a run with other settings, pictures or encoder, or the
            loss is no longer finite.
        Stopped: When ``should_stop`` asks for it; the state is saved.
    """
    norm, content_target = split_row(row)
    name = f"{row}-seed{seed}"
    folder = figure_folder(settings) / name
    network = StyleNetwork(
        described.encoder, norm, seed, unbiased=settings.variance == "unbiased"
    ).to(device)
    optimizer = make_optimizer(network, settings)
    about = describe_run(row, seed, settings, sources, described)
    chosen = about["config"]
    with exclusive(folder):
        progress = Progress()
        if (checkpoint := find_checkpoint(folder, "last")) is not None:
            saved = checkpoint.manifest
            parts = ("dataset", "encoder")
            # A longer training begins like a shorter one, so it can continue from its end.
            steps = max(saved["progress"]["step"], settings.steps)
            check_same(
                saved["config"] | {"steps": steps} | _hashes(*(saved[part] for part in parts)),
                chosen | _hashes(*(about[part] for part in parts)),
                folder,
            )
            restore(checkpoint, network, optimizer)
            progress = Progress(**saved["progress"])

        def save() -> None:
            manifest = about | {"progress": progress.to_dict()}
            save_checkpoint(folder, "last", network, manifest, optimizer)

        if progress.step < settings.steps:
            train(
                network,
                optimizer,
                training_batches(sources, settings, seed, progress.step),
                pairs,
                progress,
                settings,
                content_target=content_target,
                save=save,
                should_stop=should_stop,
                name=name,
            )
    return _write_record(row, seed, settings, about, progress, device)


def _hashes(dataset: dict[str, Any], encoder: dict[str, Any]) -> dict[str, str]:
    parts = {part: str(of["sha256"]) for part, of in dataset.items()}
    return parts | {"encoder": str(encoder["sha256"])}


def _write_record(
    row: str,
    seed: int,
    settings: StyleSettings,
    about: dict[str, Any],
    progress: Progress,
    device: torch.device,
) -> Path:
    path = Path(settings.reports) / str(settings.name) / "records" / f"{row}-seed{seed}.json"
    record = {
        "format": 1,
        "row": row,
        "seed": seed,
        **about,
        **progress.to_dict(),
        "device": device_name(device),
        "versions": {package: version(package) for package in ("robustnorm", "torch")},
    }
    del record["since"]
    write_atomically(path, (json.dumps(seal(record)) + "\n").encode())
    return path


def load_network(folder: Path) -> tuple[StyleNetwork, dict[str, Any]]:
    """Returns a trained network on the CPU, and its manifest.

    Raises:
        UsageError: When the folder does not hold such a network.
        CheckpointError: When the checkpoint is missing or damaged.
    """
    checkpoint = load_checkpoint(folder, "last")
    manifest = checkpoint.manifest
    settings = manifest["config"]
    if "row" not in settings:
        raise UsageError(f"{folder} holds no network for style transfer; choose a run of figure7")
    if not settings["vgg"]:
        widths, cut = settings["encoder_widths"], settings["cut"]
        encoder = Encoder(widths[:cut], (2,) * (cut - 1) + (1,))
    else:
        encoder = Encoder(VGG19_WIDTHS, VGG19_DEPTHS).cut(settings["cut"])
    network = StyleNetwork(
        encoder, split_row(settings["row"])[0], unbiased=settings["variance"] == "unbiased"
    )
    restore(checkpoint, network)
    return network, manifest

"""The encoder that all runs of a figure share: VGG-19, or a small one that is trained once."""

from __future__ import annotations

import hashlib
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save as to_bytes
from torch import Tensor

from robustnorm.applications.style.classifier import (
    CALIBRATION,
    Classifier,
    accuracy,
    fold_encoder,
    train_epoch,
)
from robustnorm.applications.style.data import Pairs, Sources
from robustnorm.applications.style.encoder import Encoder, from_vgg19
from robustnorm.exchange.foreign import read_weights
from robustnorm.runs.checkpoint import (
    find_checkpoint,
    restore,
    save_checkpoint,
)
from robustnorm.settings.style import StyleSettings
from robustnorm.system.errors import RefusedFileError, UsageError
from robustnorm.system.locks import exclusive
from robustnorm.system.stopping import ShouldStop, Stopped

log = logging.getLogger("robustnorm")


@dataclass(frozen=True)
class DescribedEncoder:
    """An encoder, and its description for records.

    Args:
        encoder: Frozen and normalized.
        about: ``name``, ``sha256`` of the weights, and further facts.
    """

    encoder: Encoder
    about: dict[str, Any]


def figure_folder(settings: StyleSettings) -> Path:
    """Returns the folder of all runs of a figure."""
    return Path(settings.output) / str(settings.name)


def get_encoder(
    settings: StyleSettings, sources: Sources, device: torch.device, should_stop: ShouldStop
) -> DescribedEncoder:
    """Returns the frozen encoder on the device, training the small one if needed.

    Raises:
        UsageError: When the folder holds an encoder with other settings or data.
        RefusedFileError: When the file does not hold VGG-19's weights.
        Stopped: When ``should_stop`` asks for it; finished epochs are saved.
    """
    if settings.vgg is not None:
        encoder, about = _vgg(settings)
    else:
        encoder, about = _trained(settings, sources, device, should_stop)
    encoder = encoder.to(device)
    if not about.get("normalized"):
        encoder.normalize(_calibration(settings, sources, device))
    state = {name: value.cpu().contiguous() for name, value in encoder.state_dict().items()}
    about |= {
        "sha256": hashlib.sha256(to_bytes(state)).hexdigest(),
        "layer": f"relu{settings.cut}_1",
        "parameters": sum(value.numel() for value in state.values()),
    }
    return DescribedEncoder(encoder, about)


def _vgg(settings: StyleSettings) -> tuple[Encoder, dict[str, Any]]:
    path = Path(str(settings.vgg))
    state = read_weights(path)
    try:
        encoder = from_vgg19(state).cut(settings.cut)
    except ValueError as error:
        raise RefusedFileError(f"{path}: {error}") from error
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    log.info("encoder: VGG-19 from %s, sha256 %s", path, digest)
    # The authors' weights are already normalized; those in torchvision's layout are not.
    normalized = "features.0.weight" not in state
    return encoder, {"name": "VGG-19", "file_sha256": digest, "normalized": normalized}


def _trained(
    settings: StyleSettings, sources: Sources, device: torch.device, should_stop: ShouldStop
) -> tuple[Encoder, dict[str, Any]]:
    """Returns the small encoder before normalization, training it if needed."""
    classes = sources.classes
    assert classes is not None
    widths, epochs = settings.encoder_widths, settings.encoder_epochs
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = Classifier(widths, len(classes.classes), classes.mean, classes.std).to(device)
    optimizer = torch.optim.SGD(
        [parameter for parameter in model.parameters() if parameter.requires_grad],
        lr=0.1,
        momentum=0.9,
        weight_decay=5e-4,
        nesterov=True,
    )
    folder = figure_folder(settings) / "encoder"
    chosen = {"encoder_widths": list(widths), "encoder_epochs": epochs}
    about: dict[str, Any] = {"epoch": 0}
    with exclusive(folder):
        if (checkpoint := find_checkpoint(folder, "last")) is not None:
            about = checkpoint.manifest
            saved = {"sha256": about["dataset"]["sha256"]} | about["config"]
            check_same(saved, {"sha256": classes.sha256} | chosen, folder)
            restore(checkpoint, model, optimizer)
        for epoch in range(about["epoch"], epochs):
            done = train_epoch(
                model,
                optimizer,
                classes.train.to(device),
                classes.augmentation,
                epoch=epoch,
                epochs=epochs,
                stop=lambda: should_stop(0.0),
            )
            if not done:
                raise Stopped(f"encoder: stopped in epoch {epoch + 1}; {epoch} epochs are saved")
            test_accuracy = accuracy(model, classes.test.to(device))
            log.info(
                "encoder: epoch %d/%d, accuracy %.1f %% on the test images of %s",
                epoch + 1, epochs, 100 * test_accuracy, classes.name,
            )  # fmt: skip
            about = {
                "config": chosen,
                "dataset": {"name": classes.name, "sha256": classes.sha256},
                "epoch": epoch + 1,
                "test_accuracy": test_accuracy,
                "test_images": len(classes.test),
            }
            save_checkpoint(folder, "last", model, about, optimizer)
    kept = ("epoch", "test_accuracy", "test_images")
    return fold_encoder(model, settings.cut), {
        "name": "small VGG-like encoder",
        "data": about["dataset"]["name"],
        "widths": list(widths[: settings.cut]),
    } | {name: about[name] for name in kept}


def _calibration(settings: StyleSettings, sources: Sources, device: torch.device) -> list[Tensor]:
    """Returns batches of content crops on which the mean activations are normalized to 1."""
    pairs = Pairs(sources.content, sources.content, settings.crop, seed=0)
    crops = torch.stack([pairs[number][0] for number in range(CALIBRATION)])
    return list(torch.split(crops.to(device), 50))


def check_same(saved: dict[str, Any], wanted: dict[str, Any], folder: Path) -> None:
    """Raises a UsageError when a folder was made with other settings, pictures or encoder."""
    differing = [
        f"{name}: {saved.get(name)} there, {value} here"
        for name, value in wanted.items()
        if saved.get(name) != value
    ]
    if differing:
        raise UsageError(
            f"{folder} was created with other settings ({', '.join(differing)}); continue it "
            "with those, choose another --name, or remove that folder"
        )

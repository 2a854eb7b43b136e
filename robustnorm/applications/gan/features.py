"""The network whose features judge generated images: a classifier trained here."""

from __future__ import annotations

import copy
import logging
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import tqdm

from robustnorm.data.batches import epoch_batches, steps_per_epoch, to_float
from robustnorm.data.dataset import Augmentation, Dataset, Split
from robustnorm.models.resnet import ResNet, resnet18
from robustnorm.runs.checkpoint import find_checkpoint, load_checkpoint, restore, save_checkpoint
from robustnorm.runs.described import describe_dataset, to_channels_last
from robustnorm.settings.gan import GanSettings
from robustnorm.system.errors import UsageError
from robustnorm.system.locks import exclusive

_BATCH = 500
_LEARNING_RATE, _PEAK, _BATCH_SIZE = 0.2, 0.3, 128

log = logging.getLogger("robustnorm")


class FeatureOutput(NamedTuple):
    """Output of a feature network: features (N, D) and logits (N, K), float32 on the CPU."""

    features: Tensor
    logits: Tensor


class Features(Protocol):
    """A network whose features and logits the measures use.

    Attributes:
        name: Suffix of the measures' names: "C10net" for a classifier trained here.
        classes: Whether its logits are those of the data's classes.
        description: JSON values that identify it.
    """

    name: str
    classes: bool
    description: dict[str, Any]

    def __call__(self, images: Tensor) -> FeatureOutput:
        """Returns features and logits of uint8 images (N, C, H, W)."""
        ...


class ClassifierFeatures:
    """The features before a classifier's last layer, and its logits.

    Args:
        model: In evaluation mode, on the device to use.
        description: JSON values, including ``accuracy`` and ``sha256``.
    """

    name = "C10net"
    classes = True

    def __init__(self, model: ResNet, description: dict[str, Any]) -> None:
        self.description = description
        self._last = model.fc
        self._body = copy.copy(model)
        self._body._modules = model._modules | {"fc": nn.Identity()}

    @torch.no_grad()
    def __call__(self, images: Tensor) -> FeatureOutput:
        device = self._last.weight.device
        features = torch.cat(
            [self._body(to_float(part.to(device))) for part in torch.split(images, _BATCH)]
        )
        return FeatureOutput(features.cpu(), self._last(features).cpu())


def trained_classifier(
    dataset: Dataset, config: GanSettings, device: torch.device, folder: Path
) -> ClassifierFeatures:
    """Returns the classifier that the settings describe, training it first if needed.

    It is a ResNet-18 with BN, trained by SGD with a one-cycle learning rate on all training images,
    randomly cropped after padding by an eighth, and mirrored where that suits the data. It is saved
    after each epoch, and an interrupted training continues.

    Args:
        dataset: At the generators' image size.
        config: The settings.
        device: Device to use.
        folder: Folder of its checkpoint.

    Raises:
        UsageError: When the folder holds a classifier with other settings or data.
        CheckpointError: When the checkpoint is damaged.
    """
    data = describe_dataset(dataset, len(dataset.train))
    settings = {
        "width": config.classifier_width,
        "epochs": config.classifier_epochs,
        "image_size": config.image_size,
    }
    model = _build(dataset, config)
    with exclusive(folder):
        checkpoint = find_checkpoint(folder, "last")
        if checkpoint is not None:
            found = (checkpoint.manifest["config"], checkpoint.manifest["dataset"]["sha256"])
            if found != (settings, dataset.sha256):
                raise UsageError(
                    f"{folder} holds a classifier with other settings or data ({found[0]}); choose "
                    "another --name, or remove that folder"
                )
        if checkpoint is None or checkpoint.manifest["epoch"] < config.classifier_epochs:
            model.to(device)
            _train(model, dataset, config, device, folder, settings, data)
            checkpoint = load_checkpoint(folder, "last")
    restore(checkpoint, model)
    model.eval().to(device)
    return ClassifierFeatures(
        model,
        {
            "network": "ResNet-18",
            **settings,
            "accuracy": checkpoint.manifest["accuracy"],
            "sha256": checkpoint.sha256,
        },
    )


def _build(dataset: Dataset, config: GanSettings) -> ResNet:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = resnet18(
            norm="bn",
            num_classes=len(dataset.classes),
            width=config.classifier_width,
            in_channels=dataset.train.images.shape[1],
            mean=dataset.mean,
            std=dataset.std,
        )
    to_channels_last(model)
    return model


def _train(
    model: ResNet,
    dataset: Dataset,
    config: GanSettings,
    device: torch.device,
    folder: Path,
    settings: dict[str, Any],
    data: dict[str, Any],
) -> None:
    """Trains the remaining epochs and saves after each."""
    batch_size = min(_BATCH_SIZE, len(dataset.train))
    per_epoch = steps_per_epoch(len(dataset.train), batch_size)
    total = config.classifier_epochs * per_epoch
    optimizer = torch.optim.SGD(
        model.parameters(), lr=_LEARNING_RATE, momentum=0.9, weight_decay=5e-4, nesterov=True
    )
    first = 0
    if (checkpoint := find_checkpoint(folder, "last")) is not None:
        restore(checkpoint, model, optimizer)
        first = checkpoint.manifest["epoch"]
    flip = dataset.augmentation.flip
    augmentation = Augmentation(config.image_size // 8 if flip else 0, flip)
    train, test = dataset.train.to(device), dataset.test.to(device)
    with tqdm(
        total=total, initial=first * per_epoch, desc="classifier", unit="step", disable=None
    ) as bar:
        for epoch in range(first, config.classifier_epochs):
            model.train()
            batches = epoch_batches(
                train,
                batch_size=batch_size,
                seed=0,
                epoch=epoch,
                augmentation=augmentation,
                channels_last=True,
            )
            for step, batch in enumerate(batches, epoch * per_epoch):
                fraction = min(
                    (step + 1) / (_PEAK * total), (total - step) / (total - _PEAK * total)
                )
                optimizer.param_groups[0]["lr"] = _LEARNING_RATE * fraction
                loss = F.cross_entropy(model(batch.images), batch.labels)
                optimizer.zero_grad()
                torch.autograd.backward(loss)
                optimizer.step()
                bar.update()
            accuracy = _accuracy(model.eval(), test)
            content = {
                "epoch": epoch + 1,
                "accuracy": accuracy,
                "config": settings,
                "dataset": data,
            }
            save_checkpoint(folder, "last", model, content, optimizer)
            log.info("classifier: epoch %d, test accuracy %.1f %%", epoch + 1, 100 * accuracy)


@torch.no_grad()
def _accuracy(model: ResNet, split: Split) -> float:
    correct = [
        model(to_float(images)).argmax(1) == labels
        for images, labels in zip(
            torch.split(split.images, _BATCH), torch.split(split.labels, _BATCH), strict=True
        )
    ]
    return float(torch.cat(correct).double().mean())

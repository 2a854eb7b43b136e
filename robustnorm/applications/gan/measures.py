"""Measures a generator: samples images and compares them with the data."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from robustnorm.applications.gan.features import FeatureOutput, Features
from robustnorm.applications.gan.metrics import (
    frechet_distance,
    inception_score,
    moments,
    precision_recall,
)
from robustnorm.data.batches import to_float
from robustnorm.data.dataset import Dataset, Split, subset
from robustnorm.data.errors import DataError
from robustnorm.norms.routing import route

_BATCH = 250
# Smallest number of images that can be measured: an Inception Score has ten splits.
LEAST_IMAGES = 10
# Largest number of images for precision and recall, whose cost is quadratic.
_MOST_NEIGHBOURS = 10_000


def shrunk(dataset: Dataset, size: int) -> Dataset:
    """Returns the data set with its images averaged down to ``size`` x ``size``, as uint8.

    Raises:
        DataError: When the images are not square, or their size is not a multiple of ``size``.
    """
    height, width = dataset.train.images.shape[2:]
    if height != width:
        raise DataError(
            f"GANs are trained on square images, but those of {dataset.name} have {width}x{height} "
            "pixels; use other --data"
        )
    if height % size:
        raise DataError(
            f"images of {width}x{height} cannot be averaged down to {size}x{size}; set "
            "--image_size to a divisor of their size"
        )
    if height == size:
        return dataset

    def shrink(split: Split) -> Split:
        parts = torch.split(split.images, _BATCH)
        images = torch.cat([to_uint8(F.avg_pool2d(to_float(p), height // size)) for p in parts])
        return Split(images, split.labels)

    return replace(dataset, train=shrink(dataset.train), test=shrink(dataset.test))


def check_number(dataset: Dataset) -> None:
    """Raises a DataError if there are too few images to be measured."""
    least = min(len(dataset.train), len(dataset.test))
    if least < LEAST_IMAGES:
        raise DataError(
            f"the measures need at least {LEAST_IMAGES} training and {LEAST_IMAGES} test images, "
            f"but {dataset.name} has {len(dataset.train)} and {len(dataset.test)}; use more"
        )


def to_uint8(images: Tensor) -> Tensor:
    """Returns images in [0, 1] as uint8, rounded."""
    return (255 * images).round().to(torch.uint8)


@torch.no_grad()
def generate(generator: nn.Module, latents: Tensor, labels: Tensor) -> Tensor:
    """Returns uint8 images (N, C, H, W), on the CPU.

    Args:
        generator: In evaluation mode.
        latents: (N, latent_dim).
        labels: int64 (N,).
    """
    device = next(generator.parameters()).device
    parts = []
    for values, classes in zip(
        torch.split(latents, _BATCH), torch.split(labels, _BATCH), strict=True
    ):
        with route(generator, classes.to(device)):
            images = generator(values.to(device))
        parts.append(to_uint8((images + 1) / 2).cpu())
    return torch.cat(parts)


def balanced_labels(n: int, num_classes: int, seed: int) -> Tensor:
    """Returns n labels in random order, with class counts that differ by at most one.

    With ordered labels each split of an Inception Score would contain a single class.
    """
    order = torch.randperm(n, generator=torch.Generator().manual_seed(seed))
    return (torch.arange(n) % num_classes)[order]


class Measures:
    """Compares generated images with a data set's training images, through one network.

    Args:
        features: The feature network.
        dataset: At the generators' image size.
        images: Number of generated images per measurement.
        latent_dim: Length of a latent vector.
        seed: Seed of latent vectors and labels, the same for every generator.
    """

    def __init__(
        self, features: Features, dataset: Dataset, *, images: int, latent_dim: int, seed: int = 0
    ) -> None:
        self.features = features
        self._dataset = dataset
        self._n = images
        self._latents = torch.randn(
            images, latent_dim, generator=torch.Generator().manual_seed(seed)
        )
        self._labels = balanced_labels(images, len(dataset.classes), seed)
        ids, _ = subset(dataset.train, min(images, _MOST_NEIGHBOURS, len(dataset.train)))
        real = features(dataset.train.images).features
        self._moments = moments(real)
        self._neighbours = real[ids]

    def of_generator(self, generator: nn.Module) -> dict[str, Any]:
        """Returns the measures of a generator in evaluation mode."""
        images = generate(generator, self._latents, self._labels)
        return self._of(self.features(images), self._labels)

    def of_test_images(self) -> dict[str, Any]:
        """Returns the measures of the test images, which bound what a generator can reach."""
        n = min(self._n, len(self._dataset.test))
        order = torch.randperm(n, generator=torch.Generator().manual_seed(0))
        split = subset(self._dataset.test, n)[1].take(order)
        return self._of(self.features(split.images), split.labels)

    def _of(self, output: FeatureOutput, labels: Tensor) -> dict[str, Any]:
        """Returns ``n``, ``distance``, ``score``, ``precision``, ``recall``, ``label_accuracy``.

        The last is None when the network was trained on other classes.
        """
        precision, recall = precision_recall(
            self._neighbours, output.features[: len(self._neighbours)]
        )
        correct = output.logits.argmax(1) == labels
        return {
            "n": len(labels),
            "distance": frechet_distance(self._moments, moments(output.features)),
            "score": inception_score(output.logits),
            "precision": precision,
            "recall": recall,
            "label_accuracy": float(correct.double().mean()) if self.features.classes else None,
        }

"""Figure 2: compares the generator's gradients between classes, stage by stage."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Literal

import torch
from torch import Tensor, nn

from robustnorm.applications.gan.losses import generator_loss
from robustnorm.evaluation.diversity import (
    Gradient,
    StageDiversity,
    compare_gradients,
    stage_weights,
)
from robustnorm.norms.routing import route

# Eq. 4 can be read in two ways; see ``class_gradients``.
Reading = Literal["single samples", "class batches"]


def class_gradients(
    generator: nn.Module,
    discriminator: nn.Module,
    latents: Tensor,
    *,
    num_classes: int,
    reading: Reading,
) -> list[StageDiversity]:
    """Compares the gradients of the generator's loss between the classes.

    Every latent vector is used with every class, so only the class differs. "single samples" reads
    Eq. 4 as the gradient of one image, with the generator in evaluation mode: norms use running
    statistics, independent of other images. "class batches" reads it as the gradient of a batch of
    one class, with the generator in train mode: norms see only one class. The weights are those of
    the convolutions and of the first linear layer.

    Args:
        generator: The trained generator, not its running mean. Left unchanged.
        discriminator: Left unchanged; in evaluation mode its spectral norms are constant.
        latents: (m, latent_dim) for single samples, (m, batch, latent_dim) for class batches.
        num_classes: Number of classes, the n of Eq. 4.
        reading: How to read Eq. 4.

    Returns:
        One entry per stage, from the latent vector to the image.

    Raises:
        ValueError: As ``compare_gradients``.

    References:
        Gong et al., Sandwich Batch Normalization, WACV 2022, arXiv:2102.11382, Eq. 4, 5, Figure 2.
    """
    generator = copy.deepcopy(generator).train(reading == "class batches")
    discriminator = copy.deepcopy(discriminator).eval()
    stages = stage_weights(generator)
    weights = [weight for members in stages.values() for weight in members]
    device = weights[0].device

    def batches() -> Iterator[list[Gradient]]:
        for latent in latents.to(device):
            values = latent[None] if latent.dim() == 1 else latent
            gradients = []
            for label in range(num_classes):
                labels = torch.full((len(values),), label, device=device)
                with route(generator, labels):
                    images = generator(values)
                loss = generator_loss(discriminator(images, labels))
                gradients.append(Gradient(f"class {label}", torch.autograd.grad(loss, weights)))
            yield gradients

    return compare_gradients(stages, batches())

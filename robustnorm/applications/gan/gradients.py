"""Figure 2: the gradients that a generator takes from its classes, compared stage by stage."""

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

    Each latent vector is given to every class, so that nothing but the class differs. Read as
    "single samples", a gradient is that of one image, with the generator in evaluation mode: its
    norms use running statistics, and no other image has a part in it. Read as "class batches", it
    is that of a batch of one class with the generator in train mode, whose norms then see one class
    only. The weights are those of the convolutions, and the first linear layer.

    Args:
        generator: As it is trained, not its running mean. Left as it was.
        discriminator: Left as it was; in evaluation mode its spectral norms stand still.
        latents: (m, latent_dim) for single samples, (m, batch, latent_dim) for class batches.
        num_classes: n, every class is a group.
        reading: Of Eq. 4.

    Returns:
        One entry a stage, from the latent vector's side to the image's.

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
        for given in latents.to(device):
            values = given[None] if given.dim() == 1 else given
            gradients = []
            for label in range(num_classes):
                labels = torch.full((len(values),), label, device=device)
                with route(generator, labels):
                    images = generator(values)
                loss = generator_loss(discriminator(images, labels))
                gradients.append(Gradient(f"class {label}", torch.autograd.grad(loss, weights)))
            yield gradients

    return compare_gradients(stages, batches())

"""The hinge losses of a conditional GAN."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F


def discriminator_loss(real: Tensor, fake: Tensor) -> Tensor:
    """Returns mean(max(0, 1 - real)) + mean(max(0, 1 + fake)).

    Args:
        real: Scores of real images, (N,).
        fake: Scores of generated images, (M,).

    References:
        Gong et al., Sandwich Batch Normalization, WACV 2022, arXiv:2102.11382, Eq. 6.
    """
    return F.relu(1 - real).mean() + F.relu(1 + fake).mean()


def generator_loss(fake: Tensor) -> Tensor:
    """Returns minus the mean score of generated images (N,); source as above."""
    return -fake.mean()

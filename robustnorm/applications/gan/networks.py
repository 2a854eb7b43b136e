"""Builds the generator and discriminator of a GAN by name, initialized from a seed."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from robustnorm.applications.gan.discriminator import Discriminator
from robustnorm.applications.gan.generators import (
    CellGenerator,
    ResidualGenerator,
    normalize_spectrally,
)
from robustnorm.norms.routed import RoutedBatchNorm
from robustnorm.runs.described import to_channels_last
from robustnorm.settings.gan import GanSettings

# Standard deviation of the norms' initial scales, and of BigGAN's initial weights.
_STD = 0.02


def build_networks(
    config: GanSettings, network: str, norm: str, seed: int, *, num_classes: int, channels: int
) -> tuple[nn.Module, nn.Module]:
    """Returns generator and discriminator in train mode, on the CPU.

    In SNGAN and AutoGAN, convolutions are initialized Xavier-uniformly, linear layers and
    embeddings as in torch; in BigGAN all weights are drawn from N(0, 0.02). The weights of all norm
    layers are drawn from N(1, 0.02); their biases are 0, except that BigGAN's conditional ones are
    drawn from N(0, 0.02). Then every weight of the discriminator and of BigGAN's generator, except
    the norms' affines, is spectrally normalized.

    Args:
        config: Widths and sizes.
        network: ``"sngan"``, ``"biggan"`` or ``"autogan"``.
        norm: ``"ccbn"`` or ``"sabn"``.
        seed: Seed of the weights.
        num_classes: Number of classes.
        channels: Channels of an image.
    """
    arguments: dict[str, Any] = {
        "num_classes": num_classes,
        "width": config.width,
        "latent_dim": config.latent_dim,
        "image_size": config.image_size,
        "channels": channels,
    }
    big = network == "biggan"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        generator: nn.Module
        if network == "autogan":
            generator = CellGenerator(norm, **arguments)
        else:
            generator = ResidualGenerator(norm, **arguments)
        discriminator = Discriminator(
            num_classes=num_classes,
            width=config.discriminator_width,
            channels=channels,
            bias=big,
        )
        for part in (generator, discriminator):
            _initialize(part, big)
        normalize_spectrally(discriminator)
        if big:
            normalize_spectrally(generator)
    for part in (generator, discriminator):
        to_channels_last(part)  # a third faster on a CPU
    return generator, discriminator


def _initialize(network: nn.Module, big: bool) -> None:
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d | RoutedBatchNorm):
            module.reset_parameters()
            nn.init.normal_(module.weight, 1.0, _STD)
            if big and isinstance(module, RoutedBatchNorm):
                nn.init.normal_(module.bias, 0.0, _STD)
        elif big and isinstance(module, nn.Conv2d | nn.Linear | nn.Embedding):
            nn.init.normal_(module.weight, 0.0, _STD)
        elif isinstance(module, nn.Conv2d):
            nn.init.xavier_uniform_(module.weight)

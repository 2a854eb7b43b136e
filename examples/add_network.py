"""Adding a network in one file: four convolutions, with any norm.

    python examples/add_network.py train --network small_cnn --norm auxbn --epochs 3
    python examples/add_network.py eval --network small_cnn --norm auxbn --epochs 3

One line registers its name for every command; the arguments are those of ``robustnorm``. To add it
to the package, put the function into robustnorm/models/ and the line into ``NETWORKS``.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from torch import nn

from robustnorm.cli import main as robustnorm
from robustnorm.models import NETWORKS
from robustnorm.models.resnet import InputNormalization
from robustnorm.norms import NORMS


def small_cnn(
    norm: str,
    num_classes: int,
    width: int,
    in_channels: int,
    mean: Sequence[float],
    std: Sequence[float],
    branches: Sequence[str],
) -> nn.Module:
    """Returns the network, images in [0, 1] to logits; it applies mean and std itself.

    A factory takes whichever of these arguments it needs; ``resnet18`` documents them.
    """
    layers: list[nn.Module] = [InputNormalization(mean, std)]
    channels = in_channels
    for stage in range(4):
        features = width * 2 ** (stage // 2)
        layers += [
            nn.Conv2d(channels, features, 3, 1 + stage % 2, padding=1, bias=False),
            NORMS[norm](features, branches=branches),
            nn.ReLU(),
        ]
        channels = features
    layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, num_classes)]
    return nn.Sequential(*layers)


NETWORKS["small_cnn"] = small_cnn


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command of ``robustnorm`` with the network registered."""
    return robustnorm(sys.argv[1:] if arguments is None else list(arguments))


if __name__ == "__main__":
    sys.exit(main())

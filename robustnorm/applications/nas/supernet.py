"""The supernet of mixed cells, which contains all 15,625 networks of the benchmark."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from robustnorm.applications.nas.cell import MixedCell
from robustnorm.applications.nas.space import EDGES, OPERATIONS
from robustnorm.settings.nas import Paths, SearchNorm

_STAGES = 3
# Standard deviation of the initial alpha in the release.
_ALPHA_STD = 1e-3


class Supernet(nn.Module):
    """A stem, three stages of mixed cells with residual blocks between them, and a classifier.

    Stem, blocks and the last norm use ordinary batch norms, with affine and running statistics. All
    cells share ``alpha``, the logits of the operations' weights.

    Args:
        num_classes: Number of classes.
        channels: C, the channels of the first stage; the others have 2 C and 4 C.
        cells: N, the number of cells per stage.
        norm: Norm of the cells' convolutions.
        paths: See ``num_paths``.
        in_channels: Channels of the images.
        mean: Mean of each channel, which is subtracted from the images.
        std: Standard deviation of each channel, by which they are then divided.
        seed: Seed of weights and alpha; those of convolutions and classifier, and alpha, are the
            same for every norm.

    Shape:
        Images (N, in_channels, H, W) in [0, 1] to logits (N, num_classes).

    References:
        Dong & Yang, NAS-Bench-201, ICLR 2020, arXiv:2001.00326; Liu et al., DARTS, ICLR 2019,
        arXiv:1806.09055.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        *,
        num_classes: int,
        channels: int,
        cells: int,
        norm: SearchNorm,
        paths: Paths,
        in_channels: int = 3,
        mean: Sequence[float] = (0.0, 0.0, 0.0),
        std: Sequence[float] = (1.0, 1.0, 1.0),
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean).view(1, -1, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(1, -1, 1, 1))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.stem = _conv_norm(in_channels, channels)
            layers: list[nn.Module] = []
            for stage in range(_STAGES):
                if stage:
                    layers.append(ResidualBlock(channels, 2 * channels))
                    channels *= 2
                layers += [MixedCell(channels, norm, paths) for _ in range(cells)]
            self.layers = nn.ModuleList(layers)
            self.last_norm = nn.BatchNorm2d(channels)
            self.classifier = nn.Linear(channels, num_classes)
            torch.manual_seed(seed)  # again, because some norms have drawn random numbers
            for module in self.modules():
                if isinstance(module, nn.Conv2d | nn.Linear):
                    module.reset_parameters()
            self.alpha = nn.Parameter(_ALPHA_STD * torch.randn(len(EDGES), len(OPERATIONS)))
        self.mixed_cells = _STAGES * cells

    def weights(self) -> list[nn.Parameter]:
        """Returns all parameters except alpha."""
        return [parameter for parameter in self.parameters() if parameter is not self.alpha]

    def forward(self, images: Tensor, sampled: Sequence[Sequence[int]]) -> Tensor:
        """Returns logits.

        Args:
            images: (N, in_channels, H, W) in [0, 1].
            sampled: From ``sample_operations``, one entry per cell.
        """
        weights = self.alpha.softmax(dim=1)
        features = self.stem((images - self.mean) / self.std)
        each = iter(sampled)
        for layer in self.layers:
            if isinstance(layer, MixedCell):
                features = layer(features, weights, next(each))
            else:
                features = layer(features)
        features = F.relu(self.last_norm(features)).mean(dim=(2, 3))
        logits: Tensor = self.classifier(features)
        return logits


class ResidualBlock(nn.Module):
    """NAS-Bench-201's fixed block: ReLU-convolution-norm twice; halves height and width."""

    def __init__(self, in_channels: int, channels: int) -> None:
        super().__init__()
        self.first = _conv_norm(in_channels, channels, stride=2)
        self.second = _conv_norm(channels, channels)
        self.shortcut = nn.Conv2d(in_channels, channels, 1, bias=False)

    def forward(self, input: Tensor) -> Tensor:
        residual: Tensor = self.second(F.relu(self.first(F.relu(input))))
        # An odd size is halved like the convolution halves it: rounded up.
        shortcut: Tensor = self.shortcut(F.avg_pool2d(input, 2, ceil_mode=True))
        return shortcut + residual


def _conv_norm(in_channels: int, channels: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(in_channels, channels, 3, stride=stride, padding=1, bias=False),
        nn.BatchNorm2d(channels),
    )

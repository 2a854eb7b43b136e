"""The projection discriminator that SNGAN, AutoGAN and BigGAN share at small image sizes."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class DownBlock(nn.Module):
    """Two 3x3 convolutions, then average pooling if ``down``, in parallel with a shortcut.

    Args:
        in_channels: Channels of the input.
        channels: Channels of the output.
        down: Halve height and width; the shortcut is then a 1x1 convolution.
        first: Omit the ReLU before the first convolution, because the input is an image.

    Shape:
        (N, in_channels, H, W) to (N, channels, H, W), or (N, channels, H / 2, W / 2).
    """

    def __init__(self, in_channels: int, channels: int, *, down: bool, first: bool = False) -> None:
        super().__init__()
        self.down = down
        self.first = first
        self.conv1 = nn.Conv2d(in_channels, channels, 3, padding=1)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)
        self.shortcut = nn.Conv2d(in_channels, channels, 1) if down else nn.Identity()

    def forward(self, input: Tensor) -> Tensor:
        output = self.conv2(F.relu(self.conv1(input if self.first else F.relu(input))))
        if not self.down:
            residual: Tensor = output + input
            return residual
        # A 1x1 convolution commutes with the mean and is cheaper after it.
        pooled: Tensor = F.avg_pool2d(output, 2) + self.shortcut(F.avg_pool2d(input, 2))
        return pooled


class Discriminator(nn.Module):
    r"""Scores an image and its class, :math:`D(x, y) = w \cdot h(x) + e_y \cdot h(x)`.

    h is the sum over the pixels of the last features after ReLU. The discriminators of SNGAN and
    AutoGAN have no bias; BigGAN's has one, and twice the width.

    Args:
        num_classes: Number of classes.
        width: Channels of every stage.
        channels: Channels of an image.
        bias: Whether the last linear layer has a bias.

    Shape:
        images (N, channels, H, W) in [-1, 1] and labels int64 (N,) to scores (N,).

    References:
        Miyato & Koyama, cGANs with Projection Discriminator, arXiv:1802.05637; Brock et al.,
        arXiv:1809.11096.

    Examples:
        >>> discriminator = Discriminator(num_classes=3, width=4)
        >>> discriminator(torch.zeros(2, 3, 16, 16), torch.tensor([0, 2])).shape
        torch.Size([2])
    """

    def __init__(
        self, *, num_classes: int, width: int = 128, channels: int = 3, bias: bool = False
    ) -> None:
        super().__init__()
        self.blocks = nn.Sequential(
            DownBlock(channels, width, down=True, first=True),
            DownBlock(width, width, down=True),
            DownBlock(width, width, down=False),
            DownBlock(width, width, down=False),
        )
        self.linear = nn.Linear(width, 1, bias=bias)
        self.embedding = nn.Embedding(num_classes, width)

    def features(self, images: Tensor) -> Tensor:
        """Returns h, (N, width)."""
        summed: Tensor = F.relu(self.blocks(images)).sum((2, 3))
        return summed

    def forward(self, images: Tensor, labels: Tensor) -> Tensor:
        features = self.features(images)
        scores: Tensor = self.linear(features).squeeze(1)
        projected: Tensor = torch.linalg.vecdot(self.embedding(labels), features)
        return scores + projected

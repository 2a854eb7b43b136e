"""Wide ResNets with the normalization layer as an argument, for images in [0, 1].

Module names are those of the networks that TRADES, AWP and RobustBench publish: their state_dicts
fit with ``norm="bn"``, except for the input normalization.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from torch import Tensor, nn
from torch.nn import functional as F

from robustnorm.models.resnet import Norm, conv3x3, input_normalization, norm_factory


class WideBlock(nn.Module):
    """Two 3x3 convolutions, norm and ReLU before each, around an identity or a projection."""

    def __init__(
        self, in_channels: int, channels: int, stride: int, norm: Callable[[int], nn.Module]
    ) -> None:
        super().__init__()
        self.bn1 = norm(in_channels)
        self.conv1 = conv3x3(in_channels, channels, stride)
        self.bn2 = norm(channels)
        self.conv2 = conv3x3(channels, channels)
        self.projects = in_channels != channels
        self.convShortcut = (
            nn.Conv2d(in_channels, channels, 1, stride, bias=False)
            if self.projects
            else nn.Identity()
        )

    def forward(self, features: Tensor) -> Tensor:
        output = F.relu(self.bn1(features))
        # The projection reads the normalized features, the identity the raw ones.
        shortcut: Tensor = self.convShortcut(output if self.projects else features)
        residual: Tensor = self.conv2(F.relu(self.bn2(self.conv1(output))))
        return residual + shortcut


class WideGroup(nn.Module):
    """Blocks of equal width, the first with a stride."""

    def __init__(
        self,
        count: int,
        in_channels: int,
        channels: int,
        stride: int,
        norm: Callable[[int], nn.Module],
    ) -> None:
        super().__init__()
        self.layer = nn.Sequential(
            WideBlock(in_channels, channels, stride, norm),
            *(WideBlock(channels, channels, 1, norm) for _ in range(count - 1)),
        )

    def forward(self, features: Tensor) -> Tensor:
        output: Tensor = self.layer(features)
        return output


class WideResNet(nn.Module):
    """Stem, three groups of blocks, global average pooling, one linear layer.

    Args:
        depth: Convolutions on the longest path, 6 n + 4.
        widen: Multiplies the groups' channels 16, 32 and 64.
        norm: As in ``resnet18``, like all further arguments.
        num_classes: Number of logits.
        in_channels: Channels of an image.
        mean: Per channel.
        std: Per channel.
        branches: Names of the branches of a routed norm.

    Shape:
        images (N, in_channels, H, W) in [0, 1] to logits (N, num_classes).

    Raises:
        ValueError: On another depth, or as ``resnet18``.

    References:
        Zagoruyko & Komodakis, Wide Residual Networks, arXiv:1605.07146.

    Examples:
        >>> import torch
        >>> WideResNet(10, 1, norm="bn").eval()(torch.rand(2, 3, 32, 32)).shape
        torch.Size([2, 10])
    """

    def __init__(
        self,
        depth: int,
        widen: int,
        *,
        norm: Norm = "bn",
        num_classes: int = 10,
        in_channels: int = 3,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        branches: Sequence[str] = ("clean", "adv"),
    ) -> None:
        super().__init__()
        if depth < 10 or (depth - 4) % 6:
            raise ValueError(f"depth must be 10, 16, 22, 28, ..., got {depth}")
        count, factory = (depth - 4) // 6, norm_factory(norm, branches)
        widths = [16 * widen, 32 * widen, 64 * widen]
        self.normalize = input_normalization(in_channels, mean, std)
        self.conv1 = conv3x3(in_channels, 16)
        self.block1 = WideGroup(count, 16, widths[0], 1, factory)
        self.block2 = WideGroup(count, widths[0], widths[1], 2, factory)
        self.block3 = WideGroup(count, widths[1], widths[2], 2, factory)
        self.bn1 = factory(widths[2])
        self.fc = nn.Linear(widths[2], num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, images: Tensor) -> Tensor:
        features = self.block3(self.block2(self.block1(self.conv1(self.normalize(images)))))
        logits: Tensor = self.fc(F.relu(self.bn1(features)).mean((2, 3)))
        return logits


# 36.48 and 46.16 M parameters with BN and 10 classes; keyword arguments as of ``WideResNet``.
wideresnet28_10 = partial(WideResNet, 28, 10)
wideresnet34_10 = partial(WideResNet, 34, 10)

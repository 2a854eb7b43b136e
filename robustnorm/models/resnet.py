"""ResNet-18 with the normalization layer as an argument, for images in [0, 1].

Module names are torchvision's: a state_dict of its ResNet-18 fits ``resnet18`` with ``norm="bn",
stem="imagenet"``, except for the input normalization.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from robustnorm.norms import NORMS

Norm = str | Callable[[int], nn.Module]
Stem = Literal["cifar", "imagenet"]

# Channel means and standard deviations of CIFAR-10's training images, scaled to [0, 1].
CIFAR10_MEAN = (0.4914, 0.4822, 0.4465)
CIFAR10_STD = (0.2470, 0.2435, 0.2616)


# A quarter of a grey level. A smaller one would turn rounding errors into the whole input.
LEAST_STD = 1e-3


class InputNormalization(nn.Module):
    """Subtracts a mean and divides by a standard deviation per channel; the first layer."""

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        if not min(std) >= LEAST_STD:
            raise ValueError(
                f"std must be at least {LEAST_STD} in every channel, got {tuple(std)}; give 1 for "
                "a channel that is constant"
            )
        self.register_buffer("mean", torch.tensor(mean).view(-1, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(-1, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        if images.shape[-3] != len(self.mean):  # broadcasting would accept one channel
            raise ValueError(
                f"images must have the network's {len(self.mean)} channels, got {images.shape[-3]} "
                f"in {tuple(images.shape)}"
            )
        return (images - self.mean) / self.std


class Normalized(nn.Sequential):
    """An ``InputNormalization``, then a network of other code that takes normalized images."""

    network: nn.Module

    def __init__(self, network: nn.Module, mean: Sequence[float], std: Sequence[float]) -> None:
        first = InputNormalization(mean, std)
        super().__init__(OrderedDict(normalize=first, network=network))


class BasicBlock(nn.Module):
    """Two 3x3 convolutions around an identity: norm and ReLU after each convolution."""

    def __init__(
        self, in_channels: int, channels: int, stride: int, norm: Callable[[int], nn.Module]
    ) -> None:
        super().__init__()
        self.conv1 = conv3x3(in_channels, channels, stride)
        self.bn1 = norm(channels)
        self.conv2 = conv3x3(channels, channels)
        self.bn2 = norm(channels)
        self.downsample = (
            nn.Sequential(nn.Conv2d(in_channels, channels, 1, stride, bias=False), norm(channels))
            if stride != 1 or in_channels != channels
            else nn.Identity()
        )

    def forward(self, features: Tensor) -> Tensor:
        output = F.relu(self.bn1(self.conv1(features)))
        output = self.bn2(self.conv2(output))
        shortcut: Tensor = self.downsample(features)
        return F.relu(output + shortcut)


class PreActBlock(nn.Module):
    """Two 3x3 convolutions around an identity: norm and ReLU before each convolution."""

    def __init__(
        self, in_channels: int, channels: int, stride: int, norm: Callable[[int], nn.Module]
    ) -> None:
        super().__init__()
        self.bn1 = norm(in_channels)
        self.conv1 = conv3x3(in_channels, channels, stride)
        self.bn2 = norm(channels)
        self.conv2 = conv3x3(channels, channels)
        self.downsample = (
            nn.Conv2d(in_channels, channels, 1, stride, bias=False)
            if stride != 1 or in_channels != channels
            else nn.Identity()
        )
        self.projects = isinstance(self.downsample, nn.Conv2d)

    def forward(self, features: Tensor) -> Tensor:
        output = F.relu(self.bn1(features))
        # The projection reads the normalized features, the identity the raw ones.
        shortcut: Tensor = self.downsample(output if self.projects else features)
        output = self.conv1(output)
        residual: Tensor = self.conv2(F.relu(self.bn2(output)))
        return residual + shortcut


class ResNet(nn.Module):
    """Stem, four stages of two blocks, global average pooling, one linear layer.

    Built by ``resnet18`` and ``preact_resnet18``, which document the arguments.

    Shape:
        images (N, in_channels, H, W) in [0, 1] to logits (N, num_classes).
    """

    def __init__(
        self,
        block: type[BasicBlock | PreActBlock],
        *,
        norm: Callable[[int], nn.Module],
        num_classes: int,
        width: int,
        stem: Stem,
        in_channels: int,
        mean: Sequence[float] | None,
        std: Sequence[float] | None,
        final_norm: bool,
    ) -> None:
        super().__init__()
        self.normalize = input_normalization(in_channels, mean, std)
        if stem == "cifar":
            self.conv1 = conv3x3(in_channels, width)
        elif stem == "imagenet":
            self.conv1 = nn.Conv2d(in_channels, width, 7, stride=2, padding=3, bias=False)
        else:
            raise ValueError(f"stem must be 'cifar' or 'imagenet', got {stem!r}")
        post_activation = block is BasicBlock
        self.bn1 = norm(width) if post_activation else nn.Identity()
        self.relu = nn.ReLU() if post_activation else nn.Identity()
        self.maxpool = nn.MaxPool2d(3, 2, 1) if stem == "imagenet" else nn.Identity()
        self.layer1 = _stage(block, width, width, 1, norm)
        self.layer2 = _stage(block, width, 2 * width, 2, norm)
        self.layer3 = _stage(block, 2 * width, 4 * width, 2, norm)
        self.layer4 = _stage(block, 4 * width, 8 * width, 2, norm)
        channels = 8 * width
        self.final_norm = nn.Sequential(norm(channels), nn.ReLU()) if final_norm else nn.Identity()
        self.fc = nn.Linear(channels, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, images: Tensor) -> Tensor:
        features = self.normalize(images)
        features = self.maxpool(self.relu(self.bn1(self.conv1(features))))
        features = self.layer4(self.layer3(self.layer2(self.layer1(features))))
        features = self.final_norm(features).mean((2, 3))
        logits: Tensor = self.fc(features)
        return logits


def resnet18(
    norm: Norm = "bn",
    num_classes: int = 10,
    width: int = 64,
    stem: Stem = "cifar",
    in_channels: int = 3,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    branches: Sequence[str] = ("clean", "adv"),
) -> ResNet:
    """Builds ResNet-18 with the given normalization layer.

    Args:
        norm: A name in ``robustnorm.norms.NORMS``, or a callable num_features -> module.
        num_classes: Number of logits.
        width: Channels of the first stage; 64 gives 11.17 M parameters with BN and 10 classes.
        stem: ``"cifar"``, one 3x3 convolution, or ``"imagenet"``, 7x7 stride 2 and max-pooling.
        in_channels: Channels of an image.
        mean: Per channel, on the [0, 1] scale; subtracted inside the model. None means CIFAR-10's
            for three channels and 0 otherwise.
        std: Per channel, as ``mean``. None means CIFAR-10's for three channels and 1 otherwise.
        branches: Names of the branches of a routed norm; ignored by other norms.

    Returns:
        The network in train mode, images (N, in_channels, H, W) in [0, 1] to logits.

    Raises:
        ValueError: On an unknown norm or stem, or mean or std of another length.

    References:
        He et al., Deep Residual Learning for Image Recognition, arXiv:1512.03385; the CIFAR stem is
        that of the adversarial-training literature (Madry et al., arXiv:1706.06083).

    Examples:
        >>> from robustnorm import resnet18, route
        >>> model = resnet18(norm="saauxbn", width=8)
        >>> with route(model, "clean"):
        ...     model(torch.rand(2, 3, 32, 32)).shape
        torch.Size([2, 10])
        >>> resnet18(norm="saauxbm")
        Traceback (most recent call last):
        ValueError: unknown norm 'saauxbm'; did you mean 'saauxbn'? Known: bn, modenorm, ...
    """
    return ResNet(
        BasicBlock,
        norm=norm_factory(norm, branches),
        num_classes=num_classes,
        width=width,
        stem=stem,
        in_channels=in_channels,
        mean=mean,
        std=std,
        final_norm=False,
    )


def preact_resnet18(
    norm: Norm = "bn",
    num_classes: int = 10,
    width: int = 64,
    stem: Stem = "cifar",
    in_channels: int = 3,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    branches: Sequence[str] = ("clean", "adv"),
    final_norm: bool = True,
) -> ResNet:
    """Builds the pre-activation ResNet-18: norm and ReLU before each convolution.

    Args:
        norm: As in ``resnet18``, like all other arguments but the last.
        num_classes: Number of logits.
        width: Channels of the first stage.
        stem: ``"cifar"`` or ``"imagenet"``.
        in_channels: Channels of an image.
        mean: Per channel.
        std: Per channel.
        branches: Names of the branches of a routed norm.
        final_norm: Apply norm and ReLU before the pooling. False gives the network trained by the
            release of Gong et al.

    Returns:
        The network in train mode, images (N, in_channels, H, W) in [0, 1] to logits.

    Raises:
        ValueError: As ``resnet18``.

    References:
        He et al., Identity Mappings in Deep Residual Networks, arXiv:1603.05027.

    Examples:
        >>> model = preact_resnet18(norm="bn", width=4, num_classes=3, in_channels=1).eval()
        >>> model(torch.rand(2, 1, 8, 8)).shape
        torch.Size([2, 3])
    """
    return ResNet(
        PreActBlock,
        norm=norm_factory(norm, branches),
        num_classes=num_classes,
        width=width,
        stem=stem,
        in_channels=in_channels,
        mean=mean,
        std=std,
        final_norm=final_norm,
    )


def norm_factory(norm: Norm, branches: Sequence[str]) -> Callable[[int], nn.Module]:
    """Returns a function num_features -> layer, from a norm's name or from such a function."""
    if not isinstance(norm, str):
        return norm
    factory = NORMS[NORMS.check(norm)]
    return lambda num_features: factory(num_features, branches)


def input_normalization(
    in_channels: int, mean: Sequence[float] | None, std: Sequence[float] | None
) -> nn.Module:
    """Returns the first layer; raises a ValueError on mean or std of another length."""
    if mean is None:
        mean = CIFAR10_MEAN if in_channels == 3 else (0.0,) * in_channels
    if std is None:
        std = CIFAR10_STD if in_channels == 3 else (1.0,) * in_channels
    if len(mean) != in_channels or len(std) != in_channels:
        raise ValueError(
            f"mean and std need one value for each of {in_channels} channels, got "
            f"{tuple(mean)} and {tuple(std)}"
        )
    if not any(mean) and all(value == 1 for value in std):
        return nn.Identity()
    return InputNormalization(mean, std)


def _stage(
    block: type[BasicBlock | PreActBlock],
    in_channels: int,
    channels: int,
    stride: int,
    norm: Callable[[int], nn.Module],
) -> nn.Sequential:
    return nn.Sequential(
        block(in_channels, channels, stride, norm), block(channels, channels, 1, norm)
    )


def conv3x3(in_channels: int, channels: int, stride: int = 1) -> nn.Conv2d:
    """Returns a 3x3 convolution with padding 1 and without bias."""
    return nn.Conv2d(in_channels, channels, 3, stride, padding=1, bias=False)

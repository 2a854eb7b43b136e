"""VGG-16 with the normalization layer as an argument, for images of 32 pixels and more."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from robustnorm.models.resnet import Norm, input_normalization, norm_factory

# Channels of the convolutions before each pooling, in units of ``width``.
_STAGES = ((1, 1), (2, 2), (4, 4, 4), (8, 8, 8), (8, 8, 8))


class VGG(nn.Module):
    """VGG-16 for small images: thirteen 3x3 convolutions, norm and ReLU after each, five poolings.

    Configuration D, with one linear layer after the last pooling.

    Args:
        norm: As in ``resnet18``, like all other arguments.
        num_classes: Number of logits.
        width: Channels of the first stage; 64 gives 14.73 M parameters with BN and 10 classes.
        in_channels: Channels of an image.
        mean: Per channel.
        std: Per channel.
        branches: Names of the branches of a routed norm.

    Shape:
        images (N, in_channels, H, W) in [0, 1], H and W at least 32, to logits (N, num_classes).

    Raises:
        ValueError: As ``resnet18``; on images below 32 pixels when called.

    References:
        Simonyan & Zisserman, arXiv:1409.1556; one linear layer as usual for CIFAR-10.
    """

    def __init__(
        self,
        norm: Norm = "bn",
        num_classes: int = 10,
        width: int = 64,
        in_channels: int = 3,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        branches: Sequence[str] = ("clean", "adv"),
    ) -> None:
        super().__init__()
        factory, channels = norm_factory(norm, branches), in_channels
        layers: list[nn.Module] = []
        for stage in _STAGES:
            for factor in stage:
                convolution = nn.Conv2d(channels, factor * width, 3, padding=1)
                nn.init.kaiming_normal_(convolution.weight, mode="fan_out", nonlinearity="relu")
                layers += [convolution, factory(factor * width), nn.ReLU()]
                channels = factor * width
            layers.append(nn.MaxPool2d(2))
        self.normalize = input_normalization(in_channels, mean, std)
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Linear(channels, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        if min(images.shape[-2:]) < 32:
            raise ValueError(
                "vgg16 halves images five times and needs at least 32 pixels, got "
                f"{tuple(images.shape)}"
            )
        logits: Tensor = self.classifier(self.features(self.normalize(images)).mean((2, 3)))
        return logits


vgg16 = VGG

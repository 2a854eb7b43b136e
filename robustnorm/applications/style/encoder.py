"""The frozen encoder: a VGG in which every channel has a mean activation of 1."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

# Channels and number of convolutions of each stage of VGG-19 up to relu4_1.
VGG19_WIDTHS, VGG19_DEPTHS = (64, 128, 256, 512), (2, 2, 4, 1)


def stages(widths: Sequence[int], depths: Sequence[int]) -> list[list[tuple[int, int]]]:
    """Returns the channels (in, out) of each convolution of a VGG, by stage.

    Examples:
        >>> stages((16, 32), (2, 1))
        [[(3, 16), (16, 16)], [(16, 32)]]
    """
    ends = (3, *widths)
    return [
        [(before if i == 0 else after, after) for i in range(depth)]
        for (before, after), depth in zip(pairwise(ends), depths, strict=True)
    ]


def vgg_layers(
    widths: Sequence[int], depths: Sequence[int], *, batch_norm: bool = False
) -> nn.Sequential:
    """Returns the layers of a VGG with reflection padding, named as in the authors' weights.

    The first layer, a 1x1 convolution, standardizes the colors. A stage is a max pooling (except in
    the first), then convolutions, each preceded by padding and followed by a ReLU.

    Args:
        widths: Channels of each stage.
        depths: Number of convolutions of each stage.
        batch_norm: Put a batch norm between each convolution and its ReLU.
    """
    layers: list[nn.Module] = [nn.Conv2d(3, 3, 1)]
    for number, stage in enumerate(stages(widths, depths)):
        if number:
            layers.append(nn.MaxPool2d(2, ceil_mode=True))
        for channels_in, channels in stage:
            layers += [nn.ReflectionPad2d(1), nn.Conv2d(channels_in, channels, 3)]
            layers += [nn.BatchNorm2d(channels)] if batch_norm else []
            layers.append(nn.ReLU())
    return nn.Sequential(*layers)


class Encoder(nn.Module):
    """Computes the features of an image after the first ReLU of each stage; never trained.

    Its weights do not require gradients, and it stays in evaluation mode.

    Args:
        widths: Channels of each stage.
        depths: Number of convolutions of each stage.

    Shape:
        (N, 3, H, W) in [0, 1] to a list, with (N, widths[k], H / 2^k, W / 2^k) for stage k, counted
        from 0; sizes are rounded up.

    Raises:
        ValueError: When an image is too small for the reflection padding of the last stage.

    References:
        Simonyan & Zisserman, arXiv:1409.1556; Huang & Belongie, arXiv:1703.06868.

    Examples:
        >>> [tuple(f.shape) for f in Encoder((4, 8), (2, 1))(torch.rand(1, 3, 6, 6))]
        [(1, 4, 6, 6), (1, 8, 3, 3)]
    """

    def __init__(self, widths: Sequence[int], depths: Sequence[int]) -> None:
        super().__init__()
        self.widths, self.depths = tuple(widths), tuple(depths)
        self.layers = vgg_layers(widths, depths)
        self.requires_grad_(False)
        self.train()

    def train(self, _mode: bool = True) -> Encoder:
        """Keeps evaluation mode, whatever the argument."""
        super().train(False)
        return self

    @property
    def least_side(self) -> int:
        """Smallest accepted height and width, in pixels."""
        return 1 << len(self.widths)

    def forward(self, images: Tensor) -> list[Tensor]:
        if min(images.shape[2:]) < self.least_side:
            raise ValueError(
                f"images must have at least {self.least_side} x {self.least_side} pixels, got "
                f"{images.shape[3]} x {images.shape[2]}; use larger ones"
            )
        features, wanted = [], True
        for layer in self.layers:
            images = layer(images)
            if isinstance(layer, nn.MaxPool2d):
                wanted = True
            elif isinstance(layer, nn.ReLU) and wanted:
                features.append(images)
                wanted = False
        return features

    def cut(self, stages: int) -> Encoder:
        """Returns an encoder of the first stages with these weights; its last stage has one layer.

        Args:
            stages: Number of stages to keep.
        """
        kept = Encoder(self.widths[:stages], (*self.depths[: stages - 1], 1))
        state = self.state_dict()
        kept.load_state_dict({name: state[name] for name in kept.state_dict()})
        return kept

    @torch.no_grad()
    def normalize(self, images: Sequence[Tensor]) -> None:
        """Rescales the weights so that each channel's mean activation on ``images`` is 1, in place.

        ReLU and pooling commute with a positive factor, so each channel can be divided by its mean
        activation while the next convolution compensates for that. A channel that is never active
        is not changed.

        Args:
            images: Batches (N, 3, H, W) of any sizes; every position of an image has the same
                weight.

        References:
            Gatys, Ecker & Bethge, Image Style Transfer Using Convolutional Neural Networks, CVPR
            2016, Section 2.
        """
        sums: dict[int, Tensor] = {}
        positions: dict[int, int] = {}
        for batch in images:
            for index, layer in enumerate(self.layers):
                batch = layer(batch)
                if isinstance(layer, nn.ReLU):
                    sums[index] = sums.get(index, 0) + batch.double().sum((0, 2, 3))
                    positions[index] = positions.get(index, 0) + batch[:, 0].numel()
        means: Tensor | None = None
        for index, conv in enumerate(self.layers):
            if not isinstance(conv, nn.Conv2d) or index == 0:
                continue
            if means is not None:
                conv.weight.mul_(means[:, None, None])
            found = (sums[index + 1] / positions[index + 1]).to(conv.weight.dtype)
            means = torch.where(found > 0, found, 1.0)
            conv.weight.div_(means[:, None, None, None])
            assert conv.bias is not None
            conv.bias.div_(means)


def from_vgg19(state: Mapping[str, Tensor]) -> Encoder:
    """Returns VGG-19 up to relu4_1, with weights in one of two layouts.

    These are ``vgg_normalised`` by AdaIN's authors ("0.weight", "2.weight", ...), whose first layer
    standardizes the colors, and torchvision's layout ("features.0.weight", ...), which needs
    ImageNet's mean and standard deviation.

    Args:
        state: Tensors by name; deeper layers are ignored.

    Raises:
        ValueError: When layers are missing or have another shape.
    """
    encoder = Encoder(VGG19_WIDTHS, VGG19_DEPTHS)
    expected = encoder.layers.state_dict()
    if "features.0.weight" in state:
        mean, std = (torch.tensor(v) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
        found = expected | color_standardization(mean, std)
        convolutions = [
            i for i, layer in enumerate(encoder.layers) if isinstance(layer, nn.Conv2d) and i
        ]
        # torchvision's numbering has no paddings: it counts convolutions, ReLUs and poolings.
        pools = [i for i, layer in enumerate(encoder.layers) if isinstance(layer, nn.MaxPool2d)]
        for number, index in enumerate(convolutions):
            source = 2 * number + sum(pool < index for pool in pools)
            for tensor in ("weight", "bias"):
                value = state.get(f"features.{source}.{tensor}", torch.empty(0))
                found[f"{index}.{tensor}"] = value
    else:
        found = {name: state.get(name, torch.empty(0)) for name in expected}
    wrong = [name for name, value in found.items() if value.shape != expected[name].shape]
    if wrong:
        raise ValueError(
            "the weights must be those of VGG-19, named as in vgg_normalised or in torchvision; "
            f"{len(wrong)} tensors are missing or have another shape, the first is {wrong[0]}"
        )
    encoder.layers.load_state_dict(found)
    return encoder


def color_standardization(mean: Tensor, std: Tensor) -> dict[str, Tensor]:
    """Returns first-layer weights that subtract a mean and divide by a standard deviation, (3,)."""
    return {"0.weight": torch.diag(1 / std)[:, :, None, None], "0.bias": -mean / std}

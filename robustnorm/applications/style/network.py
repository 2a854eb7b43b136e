"""Encoder, norm and decoder: from content and style to a stylized picture."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from robustnorm.applications.style.encoder import Encoder, stages
from robustnorm.norms.ilm import ILMAdaIN
from robustnorm.norms.instance import AdaIN, SaAdaIN

_NORMS = ("adain", "ilm", "saadain")


def decoder(widths: Sequence[int], depths: Sequence[int]) -> nn.Sequential:
    """Returns the mirror image of an encoder, from its deepest features to a picture.

    It has convolutions with reflection padding and ReLU in reverse order, nearest-neighbour
    upsampling where the encoder pools, no normalization, and no final ReLU.

    Args:
        widths: Channels of each stage of the encoder.
        depths: Number of convolutions of each stage of the encoder.

    References:
        Huang & Belongie, arXiv:1703.06868, Section 6.
    """
    layers: list[nn.Module] = []
    for stage in reversed(stages(widths, depths)):
        if layers:
            layers.append(nn.Upsample(scale_factor=2, mode="nearest"))
        for channels_in, channels in reversed(stage):
            layers += [nn.ReflectionPad2d(1), nn.Conv2d(channels, channels_in, 3), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


class StyleNetwork(nn.Module):
    """Paints content in the style of another picture.

    Args:
        encoder: Frozen; the norm acts on its deepest features.
        norm: adain, ilm or saadain.
        seed: Seed of the weights; those of the decoder do not depend on the norm.
        unbiased: As in ``AdaIN``.

    Shape:
        content (N, 3, H, W) and style (N, 3, H', W') in [0, 1] to (N, 3, H, W) in [0, 1].

    References:
        Huang & Belongie, arXiv:1703.06868; Gong et al., arXiv:2102.11382, Section 5.2.
    """

    norm: AdaIN

    def __init__(self, encoder: Encoder, norm: str, seed: int = 0, *, unbiased: bool = False):
        super().__init__()
        if norm not in _NORMS:
            raise ValueError(f"norm must be one of {', '.join(_NORMS)}, got {norm}")
        self.encoder = encoder
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.decoder = decoder(encoder.widths, encoder.depths)
            channels = encoder.widths[-1]
            if norm == "adain":
                self.norm = AdaIN(unbiased=unbiased)
            elif norm == "ilm":
                self.norm = ILMAdaIN(channels, unbiased=unbiased)
            else:
                self.norm = SaAdaIN(channels, unbiased=unbiased)

    def forward(self, content: Tensor, style: Tensor) -> Tensor:
        target = self.norm(self.encoder(content)[-1], self.encoder(style)[-1])
        height, width = content.shape[2:]
        painted: Tensor = self.decoder(target)
        return painted[:, :, :height, :width].clamp(0, 1)

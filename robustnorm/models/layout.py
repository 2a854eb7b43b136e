"""Finding networks that the channels-last memory format crashes: a bug of oneDNN on AVX-512.

The backward pass of a convolution with kernel 1, stride 2 and fewer than 16 input channels writes
past its memory (oneDNN of torch 2.13, ``brgconv_strided`` and its weights' gradient) once its input
is about 46 pixels wide or wider: "double free" or a segmentation fault. The shortcuts of ResNets of
width below 16 are such convolutions. Contiguous tensors use other kernels, as do wider layers,
smaller images and processors without AVX-512.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

FRAGILE = (
    "on this processor channels-last weights crash the backward pass of convolutions with kernel "
    "1, stride 2 and fewer than 16 input channels on images above 32 pixels, a bug of oneDNN: "
)

# Input channels from which the kernel is correct; image sides up to which it never failed.
_CHANNELS, _SIDE = 16, 32


def is_fragile(model: nn.Module) -> bool:
    """Returns whether a network has a convolution whose kernel has the bug on this processor."""
    weight = next(model.parameters(), None)
    if weight is None or weight.device.type != "cpu":
        return False
    return "AVX512" in torch.backends.cpu.get_cpu_capability() and any(
        isinstance(module, nn.Conv2d)
        and module.kernel_size == (1, 1)
        and module.stride != (1, 1)
        and module.in_channels < _CHANNELS
        for module in model.modules()
    )


def is_too_large(images: Tensor) -> bool:
    """Returns whether images (N, C, H, W) are so large that a fragile network may fail on them."""
    return max(images.shape[2:], default=0) > _SIDE


def must_be_contiguous(model: nn.Module, images: Tensor) -> bool:
    """Returns whether channels-last images could crash the network's backward pass."""
    return is_too_large(images) and is_fragile(model)


def is_channels_last(model: nn.Module) -> bool:
    """Returns whether any weight is channels-last and not contiguous as well."""
    return any(
        weight.dim() == 4
        and not weight.is_contiguous()
        and weight.is_contiguous(memory_format=torch.channels_last)
        for weight in model.parameters()
    )

"""3x3 convolutions by Winograd's method: a quarter of the multiplications, for searches on a CPU.

A tile of 4x4 outputs follows from 6x6 inputs. Tile and kernel are polynomials in each direction,
multiplied point by point at five numbers and at infinity (Cook and Toom). Numbers of few bits keep
the rounding small, ours half of what 0, 1, -1, 2 and -2 give (Barabasz et al., arXiv:1803.10986).

GPUs have this in their libraries; torch's CPU convolutions do not.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

_POINTS = np.array([0, 0.75, -0.75, 1.5, -1.5])
_TILE = 4  # outputs in each direction
_SPAN = _TILE + 2  # inputs that they read
# With fewer channels, moving the tiles takes longer than the multiplications that they save.
_LEAST_CHANNELS = 256


def use_winograd(model: nn.Module) -> nn.Module:
    """Replaces the convolutions of ``model`` that gain from it, in place; returns ``model``.

    Those are of 3x3, stride 1, padding 1, and at least 256 channels in and out. The replacements
    hold the weights as they are now, and have gradients for their input only, of first order.

    Examples:
        >>> network = use_winograd(nn.Sequential(nn.Conv2d(256, 256, 3, padding=1), nn.ReLU()))
        >>> type(network[0]).__name__, network(torch.rand(1, 256, 8, 8)).shape
        ('WinogradConv2d', torch.Size([1, 256, 8, 8]))
    """
    for parent in list(model.modules()):
        for name, child in parent.named_children():
            if type(child) is nn.Conv2d and _gains(child):
                setattr(parent, name, WinogradConv2d(child))
    return model


def _gains(convolution: nn.Conv2d) -> bool:
    shape = convolution.kernel_size, convolution.stride, convolution.padding, convolution.dilation
    return (
        shape == ((3, 3), (1, 1), (1, 1), (1, 1))
        and convolution.groups == 1
        and convolution.padding_mode == "zeros"
        and min(convolution.in_channels, convolution.out_channels) >= _LEAST_CHANNELS
    )


class WinogradConv2d(nn.Module):
    """What ``convolution`` computes, up to rounding: relative errors of 1e-6 in float32.

    In bfloat16 they are near 1e-2, five times those of a direct convolution.

    Args:
        convolution: 3x3, stride 1, padding 1; also used itself, on images whose height or width is
            no multiple of 4.

    Shape:
        (N, C, H, W) of any floating type to (N, K, H, W) of the weights' type, channels last.

    References:
        Lavin and Gray, arXiv:1509.09308.
    """

    weight: Tensor
    gradient_weight: Tensor

    def __init__(self, convolution: nn.Conv2d) -> None:
        super().__init__()
        self.direct = convolution
        kernel = convolution.weight.detach()
        self.register_buffer("weight", _transform_kernel(kernel))
        # The gradient of a convolution is one with the kernel turned around.
        self.register_buffer(
            "gradient_weight", _transform_kernel(kernel.flip(2, 3).transpose(0, 1))
        )

    def forward(self, input: Tensor) -> Tensor:
        input = input.to(self.weight.dtype)
        if input.shape[2] % _TILE or input.shape[3] % _TILE:
            output: Tensor = self.direct(input)
            return output
        return _convolution(input, self.weight, self.gradient_weight, self.direct.bias)


class _Convolution(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, input: Tensor, weight: Tensor, gradient_weight: Tensor, bias: Tensor | None
    ) -> Tensor:
        ctx.save_for_backward(gradient_weight)
        return _convolve(input, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None]:
        (gradient_weight,) = ctx.saved_tensors
        return _convolve(gradient, gradient_weight, None), None, None, None


_convolution = cast(Callable[..., Tensor], _Convolution.apply)


def _transforms() -> tuple[Tensor, Tensor, Tensor]:
    """Returns what transforms flattened tiles (36, 36), kernels (36, 9) and products (16, 36)."""

    def powers(count: int) -> np.ndarray:
        return np.vstack([np.vander(_POINTS, count, increasing=True), np.eye(count)[-1]])

    others = [np.delete(_POINTS, i) for i in range(len(_POINTS))]
    scale = [np.prod(point - rest) for point, rest in zip(_POINTS, others, strict=True)]
    kernels = powers(3) / np.array([*scale, 1])[:, None]
    tiles = np.zeros((_SPAN, _SPAN))
    for row, roots in zip(tiles, (*others, _POINTS), strict=True):
        row[: len(roots) + 1] = np.poly(roots)[::-1]

    def both_directions(matrix: np.ndarray) -> Tensor:
        return torch.from_numpy(np.kron(matrix, matrix))

    return both_directions(tiles), both_directions(kernels), both_directions(powers(_TILE).T)


_TILES, _KERNELS, _PRODUCTS = _transforms()


def _transform_kernel(kernel: Tensor) -> Tensor:
    """Returns a kernel (K, C, 3, 3), of float32 at least, as (36, C, K)."""
    return torch.einsum("pq,kcq->pck", _KERNELS.to(kernel), kernel.flatten(2)).contiguous()


def _convolve(input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Convolves (N, C, H, W) with a kernel as ``_transform_kernel`` returns it."""
    n, channels, height, width = input.shape
    rows, columns = height // _TILE, width // _TILE
    padded = F.pad(input.permute(0, 2, 3, 1), (0, 0, 1, 1, 1, 1)).contiguous()
    image, row, column, channel = padded.stride()
    tiles = padded.as_strided(
        (_SPAN, _SPAN, n, rows, columns, channels),
        (row, column, image, _TILE * row, _TILE * column, channel),
    ).reshape(_SPAN**2, -1)
    tiles = torch.mm(_TILES.to(tiles), tiles).view(_SPAN**2, -1, channels)
    products = torch.bmm(tiles, weight).view(_SPAN**2, -1)
    outputs = torch.mm(_PRODUCTS.to(products), products)
    outputs = outputs.view(_TILE, _TILE, n, rows, columns, -1).permute(2, 3, 0, 4, 1, 5)
    # Not a view, which nothing behind this layer could change in place.
    result = torch.empty(
        (n, outputs.shape[-1], height, width),
        dtype=outputs.dtype,
        device=outputs.device,
        memory_format=torch.channels_last,
    )
    target = result.permute(0, 2, 3, 1).view(outputs.shape)
    if bias is None:
        target.copy_(outputs)
    else:
        torch.add(outputs, bias, out=target)
    return result

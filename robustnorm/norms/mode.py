from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable


class _Moments(torch.autograd.Function):
    """Means of x and x^2 over (H, W), at least float32; one pass over x in the backward."""

    @staticmethod
    def forward(input: Tensor) -> tuple[Tensor, Tensor]:
        dtype = _at_least_float32(input)
        return input.mean((2, 3), dtype=dtype), input.to(dtype).square().mean((2, 3))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: tuple[Tensor, Tensor]) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, mean_grad: Tensor, square_grad: Tensor) -> Tensor:
        (input,) = ctx.saved_tensors
        size = input.shape[2] * input.shape[3]
        return _scale_and_shift(input, square_grad * (2 / size), mean_grad / size)


def _at_least_float32(input: Tensor) -> torch.dtype:
    return torch.promote_types(input.dtype, torch.float32)


def _scale_and_shift(input: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """Returns scale x + shift with (N, C) coefficients, in the dtype of x."""
    scale, shift = (values.to(input.dtype)[:, :, None, None] for values in (scale, shift))
    if input.is_contiguous(memory_format=torch.channels_last):
        # Written out along W, so that one inner loop covers a row's W C values instead of C.
        scale, shift = (
            values.expand(-1, -1, -1, input.shape[3]).contiguous(memory_format=torch.channels_last)
            for values in (scale, shift)
        )
    return torch.addcmul(shift, input, scale)


class ModeNorm(nn.Module):
    r"""Standardizes each sample with a gated mixture of K sets of statistics.

    .. math:: y_n = \gamma \sum_k g_{nk} \frac{x_n - \mu_k}{\sqrt{\sigma_k^2 + \epsilon}} + \beta

    The gates :math:`g_{nk} = \mathrm{softmax}_k(W \bar x_n + b)` read the sample's spatial mean
    :math:`\bar x_n`; :math:`\mu_k` and :math:`\sigma_k^2` are mean and variance over (N, H, W)
    weighted by the gates. Two per-sample sums, of x and of x^2, give all statistics, and the output
    is :math:`a_{nc} x + b_{nc}`: one pass over the feature map whatever K is.

    Training uses batch statistics and updates the running ones, per mode averages of the weighted
    means of x and x^2; evaluation uses those (variance = second moment - mean^2, at least 0) and
    changes nothing. Gates depend on the input in both modes, so gradients pass through them.
    Statistics are float32 (float64 for float64 input) under autocast too.

    Args:
        num_features: C.
        num_modes: K.
        eps: Added to each variance.
        momentum: Weight of the newest batch in the running statistics, in (0, 1].

    Shape:
        (N, C, H, W) floating point to the same; in training N H W > 1.

    Raises:
        ValueError: On another rank or channel count, or a single value per channel in training.

    References:
        Deecke et al., Mode Normalization, ICLR 2019, arXiv:1810.05466. The gate starts at
        1/K + 0.01 N(0, 1) as in the release of Gong et al., arXiv:2102.11382.
    """

    running_mean: Tensor
    running_second_moment: Tensor
    num_batches_tracked: Tensor

    def __init__(
        self, num_features: int, num_modes: int = 2, eps: float = 1e-5, momentum: float = 0.1
    ) -> None:
        super().__init__()
        if num_modes < 1:
            raise ValueError(f"num_modes must be at least 1, got {num_modes}")
        if not 0 < momentum <= 1:
            raise ValueError(f"momentum must lie in (0, 1], got {momentum}")
        self.num_features = num_features
        self.num_modes = num_modes
        self.eps = eps
        self.momentum = momentum
        self.track_running_stats = True
        self.weight = nn.Parameter(torch.ones(num_features))
        self.bias = nn.Parameter(torch.zeros(num_features))
        self.gate = nn.Linear(num_features, num_modes)
        nn.init.normal_(self.gate.weight, 1 / num_modes, 0.01)
        nn.init.zeros_(self.gate.bias)
        self.register_buffer("running_mean", torch.zeros(num_modes, num_features))
        self.register_buffer("running_second_moment", torch.ones(num_modes, num_features))
        self.register_buffer("num_batches_tracked", torch.tensor(0))

    def forward(self, input: Tensor) -> Tensor:
        if input.dim() != 4 or input.shape[1] != self.num_features:
            raise ValueError(
                f"ModeNorm takes (N, {self.num_features}, H, W), got {tuple(input.shape)}"
            )
        if self.training and input.numel() == self.num_features:
            raise ValueError(
                "ModeNorm in training needs more than one value per channel, got "
                f"{tuple(input.shape)}"
            )
        with torch.autocast(input.device.type, enabled=False):
            if self.training:
                means, squares = _Moments.apply(input)  # type: ignore[no-untyped-call]
                gates = self._gates(means)
                mean, variance = self._batch_statistics(means, squares, gates)
            else:
                gates = self._gates(input.mean((2, 3), dtype=_at_least_float32(input)))
                mean = self.running_mean
                variance = (self.running_second_moment - mean.square()).clamp_min(0)
            inverse = (variance + self.eps).rsqrt()  # (K, C)
            scale = self.weight * (gates @ inverse)  # (N, C)
            shift = self.bias - self.weight * (gates @ (inverse * mean))
        return _scale_and_shift(input, scale, shift)

    def _gates(self, means: Tensor) -> Tensor:
        gates: Tensor = self.gate(means.to(self.gate.weight.dtype))
        return gates.softmax(1)  # (N, K)

    def _batch_statistics(
        self, means: Tensor, squares: Tensor, gates: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Returns mean and variance (K, C) of each mode; moves the running statistics."""
        weights = (gates / gates.sum(0)).T  # (K, N), each row sums to 1
        mean, second_moment = weights @ means, weights @ squares
        if self.track_running_stats:
            with torch.no_grad():
                self.num_batches_tracked.add_(1)
                self.running_mean.lerp_(mean.to(self.running_mean.dtype), self.momentum)
                self.running_second_moment.lerp_(
                    second_moment.to(self.running_second_moment.dtype), self.momentum
                )
        return mean, (second_moment - mean.square()).clamp_min(0)

    def extra_repr(self) -> str:
        return (
            f"{self.num_features}, num_modes={self.num_modes}, eps={self.eps}, "
            f"momentum={self.momentum}"
        )


def modenorm(num_features: int, branches: Sequence[str] = ()) -> ModeNorm:
    """Returns a ModeNorm with two modes; it finds its modes itself, so nothing is routed."""
    return ModeNorm(num_features)

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn


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
        with torch.autocast(input.device.type, enabled=False):
            scale, shift = self._scale_and_shift(input)
        return torch.addcmul(
            shift.to(input.dtype)[:, :, None, None], input, scale.to(input.dtype)[:, :, None, None]
        )

    def _scale_and_shift(self, input: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the (N, C) coefficients of y = scale x + shift."""
        dtype = torch.promote_types(input.dtype, torch.float32)
        means = input.mean((2, 3), dtype=dtype)
        gates = self.gate(means.to(self.gate.weight.dtype)).softmax(1)  # (N, K)
        if self.training:
            mean, variance = self._batch_statistics(input, means, gates)
        else:
            mean = self.running_mean
            variance = (self.running_second_moment - mean.square()).clamp_min(0)
        inverse = (variance + self.eps).rsqrt()  # (K, C)
        scale = self.weight * (gates @ inverse)
        shift = self.bias - self.weight * (gates @ (inverse * mean))
        return scale, shift

    def _batch_statistics(
        self, input: Tensor, means: Tensor, gates: Tensor
    ) -> tuple[Tensor, Tensor]:
        n, _, h, w = input.shape
        if n * h * w < 2:
            raise ValueError(
                f"ModeNorm in training needs more than one value per channel, got {input.shape}"
            )
        squares = input.to(means.dtype).square().mean((2, 3))  # (N, C)
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

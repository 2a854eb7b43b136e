from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad

from robustnorm.norms.averages import check_momentum, complete_count, newest_weight
from robustnorm.norms.synchronized import sum_over_processes

# The backward passes below use differentiable operations, so that derivatives of any order exist;
# ``once_differentiable`` would return zeros wherever the incoming gradient is constant.

# So many values make a float32 copy of 1 MB, which fits the second-level cache of a core.
_CACHED = 1 << 18


class _Moments(torch.autograd.Function):
    """Means of x and x^2 over (H, W), (2, N, C), at least float32, with a one-pass backward."""

    @staticmethod
    def forward(input: Tensor) -> Tensor:
        moments = []
        for (part,) in _parts(input):
            values = part.to(_at_least_float32(input))
            moments.append(torch.stack([values.mean((2, 3)), values.square().mean((2, 3))]))
        return torch.cat(moments, 1)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (input,) = ctx.saved_tensors
        size = input.shape[2] * input.shape[3]
        shift, scale = _maps(input, grad[0] / size, grad[1] * (2 / size))
        return torch.addcmul(shift, input, scale)


class _ScaleAndShift(torch.autograd.Function):
    """scale x + shift with (N, C) coefficients, in the dtype of x; gradients keep their dtypes."""

    @staticmethod
    def forward(input: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
        scale, shift = _maps(input, scale, shift)
        return torch.addcmul(shift, input, scale)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor], output: Tensor) -> None:
        input, scale, _ = inputs
        ctx.save_for_backward(input, scale)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        input, scale = ctx.saved_tensors
        (factor,) = _maps(input, scale)
        sums = []
        for wide, part in _parts(grad, input):
            wide = wide.to(scale.dtype)
            sums.append(torch.stack([(wide * part).sum((2, 3)), wide.sum((2, 3))]))
        return grad * factor, *torch.cat(sums, 1)


def _apply(function: type[_Moments | _ScaleAndShift], *inputs: Tensor) -> Tensor:
    """Runs ``function``, or its plain operations under vmap and forward-mode derivatives."""
    if not torch.compiler.is_compiling() and (
        torch._C._are_functorch_transforms_active() or forward_ad._current_level >= 0
    ):
        return function.forward(*inputs)
    output: Tensor = function.apply(*inputs)  # type: ignore[no-untyped-call]
    return output


def _parts(*tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Yields groups of samples; on a CPU a float32 copy of a group fits the cache."""
    first = tensors[0]
    if first.device.type != "cpu":
        return iter([tensors])
    samples = max(1, _CACHED // max(1, first[:1].numel()))
    return zip(*(torch.split(t, samples) for t in tensors), strict=True)


def _maps(input: Tensor, *values: Tensor) -> list[Tensor]:
    """Returns (N, C) coefficients in the dtype of ``input``, shaped to broadcast over it."""
    maps = [value.to(input.dtype)[:, :, None, None] for value in values]
    # vmap cannot ask for the memory format.
    vmapped = torch._C._are_functorch_transforms_active()
    if vmapped or not input.is_contiguous(memory_format=torch.channels_last):
        return maps
    # Expanded along W, so that one inner loop covers the W C values of a row instead of C.
    width = input.shape[3]
    return [
        values.expand(-1, -1, -1, width).contiguous(memory_format=torch.channels_last)
        for values in maps
    ]


def _at_least_float32(input: Tensor) -> torch.dtype:
    return torch.promote_types(input.dtype, torch.float32)


class ModeNorm(nn.Module):
    r"""Standardizes each sample with a gated mixture of K sets of statistics.

    .. math:: y_n = \gamma \sum_k g_{nk} \frac{x_n - \mu_k}{\sqrt{\sigma_k^2 + \epsilon}} + \beta

    The gates :math:`g_{nk} = \mathrm{softmax}_k(W \bar x_n + b)` are computed from the sample's
    spatial mean :math:`\bar x_n`; :math:`\mu_k` and :math:`\sigma_k^2` are mean and variance over
    (N, H, W) weighted by the gates. All statistics follow from two per-sample sums, of x and of
    x^2, and the output is :math:`a_{nc} x + b_{nc}`: one pass over the feature map for any K.

    Training uses batch statistics and updates the running ones, which are, per mode, averages of
    the weighted means of x and x^2. Evaluation uses the running statistics (variance = second
    moment - mean^2, at least 0) and changes nothing. The gates depend on the input in both modes,
    so gradients flow through them. Statistics are float32 (float64 for float64 input), also under
    autocast.

    Args:
        num_features: C.
        num_modes: K.
        eps: Added to each variance.
        momentum: Weight of the newest batch in the running statistics, in [0, 1]; None weights all
            batches equally.

    Shape:
        (N, C, H, W) floating point to the same; in training N H W > 1.

    Raises:
        ValueError: On another rank or channel count, or with one value per channel in training.

    References:
        Deecke et al., Mode Normalization, ICLR 2019, arXiv:1810.05466. The gate starts at
        1/K + 0.01 N(0, 1) as in the release of Gong et al., arXiv:2102.11382.

    Examples:
        >>> layer = ModeNorm(3, num_modes=2)
        >>> layer(torch.rand(4, 3, 5, 5)).shape
        torch.Size([4, 3, 5, 5])
        >>> layer.running_mean.shape
        torch.Size([2, 3])
    """

    running_mean: Tensor
    running_second_moment: Tensor
    num_batches_tracked: Tensor

    # Whether batch statistics are taken over all processes; set by ``synchronize``.
    synchronized = False

    def __init__(
        self,
        num_features: int,
        num_modes: int = 2,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
    ) -> None:
        super().__init__()
        if num_modes < 1:
            raise ValueError(f"num_modes must be at least 1, got {num_modes}")
        check_momentum(momentum)
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
                moments = _apply(_Moments, input)
                gates = self._gates(moments[0])
                mean, variance = self._batch_statistics(moments, gates)
            else:
                gates = self._gates(input.mean((2, 3), dtype=_at_least_float32(input)))
                mean = self.running_mean
                variance = (self.running_second_moment - mean.square()).clamp_min(0)
            inverse = (variance + self.eps).rsqrt()  # (K, C)
            # Sums over the modes, (N, C) each.
            affines = torch.stack([self.weight * inverse, -self.weight * inverse * mean])
            scale, shift = gates.to(affines.dtype) @ affines
            shift = shift + self.bias
            return _apply(_ScaleAndShift, input, scale, shift)

    def _gates(self, means: Tensor) -> Tensor:
        gates: Tensor = self.gate(means.to(self.gate.weight.dtype))
        return gates.softmax(1)  # (N, K)

    def _batch_statistics(self, moments: Tensor, gates: Tensor) -> tuple[Tensor, Tensor]:
        """Returns mean and variance (K, C) of each mode and updates the running statistics."""
        dtype = torch.promote_types(gates.dtype, moments.dtype)  # they differ in a half layer
        gates, moments = gates.to(dtype), moments.to(dtype)
        total = self._over_processes(gates.sum(0))
        weights = (gates / total).T  # (K, N), each row sums to 1
        mean, second_moment = self._over_processes(weights @ moments)  # (K, C) each
        if self.track_running_stats:
            with torch.no_grad():
                self.num_batches_tracked.add_(1)
                newest = newest_weight(self.momentum, self.num_batches_tracked)
                for running, batch in (
                    (self.running_mean, mean),
                    (self.running_second_moment, second_moment),
                ):
                    running.lerp_(batch.to(running.dtype), newest)
        return mean, (second_moment - mean.square()).clamp_min(0)

    def _over_processes(self, sums: Tensor) -> Tensor:
        return sum_over_processes(sums) if self.synchronized else sums

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *args: Any) -> None:
        complete_count(state_dict, prefix, self.num_batches_tracked)
        super()._load_from_state_dict(state_dict, prefix, *args)

    def extra_repr(self) -> str:
        return (
            f"{self.num_features}, num_modes={self.num_modes}, eps={self.eps}, "
            f"momentum={self.momentum}"
        )


def modenorm(num_features: int, branches: Sequence[str] = ()) -> ModeNorm:
    """Returns a ModeNorm with two modes; it has no branches to route."""
    return ModeNorm(num_features)

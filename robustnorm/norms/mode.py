from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad

from robustnorm.norms.averages import add_missing_count, check_momentum, newest_weight
from robustnorm.norms.synchronized import sum_over_processes

# The backward passes below use differentiable operations on what was saved, so that derivatives of
# any order exist; ``once_differentiable`` would return zeros wherever the incoming gradient is
# constant. A small layer's time depends on the number of operations, so each pass has few.

# Values whose float32 copy, 1 MB, fits the second-level cache of a core.
_CACHED = 1 << 18
# Values in the innermost loop that hide the cost of entering it.
_ROW = 128


class _Moments(torch.autograd.Function):
    """Means of x, then of x^2, over (H, W): (N, 2C), at least float32; and x itself.

    The layer uses the returned x from then on, so that one pass adds both of its gradients.
    """

    @staticmethod
    def plain(input: Tensor) -> tuple[Tensor, Tensor]:
        wide = (x.to(_wide_dtype(input)) for (x,) in _sample_groups(input))
        moments = [torch.cat([x.mean((2, 3)), x.square().mean((2, 3))], 1) for x in wide]
        return _concatenated(moments), input

    @staticmethod
    def forward(ctx: Any, input: Tensor) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(input)
        return _Moments.plain(input)[0], input.view_as(input)

    @staticmethod
    def backward(ctx: Any, grad_moments: Tensor, grad: Tensor) -> Tensor:
        (input,) = ctx.saved_tensors
        shift, scale = _maps(input, grad_moments / (input.shape[2] * input.shape[3]))
        return torch.addcmul(shift, input, scale, value=2).add_(grad)


class _BatchAffines(torch.autograd.Function):
    """Scale and shift of each mode, side by side (K, 2C), from the statistics of a batch."""

    @staticmethod
    def plain(moments: Tensor, gates: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
        sums = (gates / gates.sum(0)).T @ moments
        return _affines(sums, weight, bias, eps)

    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> Tensor:
        ctx.save_for_backward(*inputs[:-1])
        ctx.eps = inputs[-1]
        return _BatchAffines.plain(*inputs)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        moments, gates, weight, _ = ctx.saved_tensors
        total = gates.sum(0)
        shares = gates / total
        mean, second_moment = (shares.T @ moments).chunk(2, 1)
        variance = second_moment - mean.square()
        inverse = (variance.clamp_min(0) + ctx.eps).rsqrt()
        scale = weight * inverse
        grad_scale, grad_shift = grad.chunk(2, 1)
        grad_scale = grad_scale - grad_shift * mean
        grad_variance = (grad_scale * scale * inverse.square()) * (-0.5 * (variance > 0))
        grad_mean = -grad_shift * scale - 2 * mean * grad_variance
        grad_sums = torch.cat([grad_mean, grad_variance], 1)
        grad_shares = moments @ grad_sums.T
        grad_gates = (grad_shares - (shares * grad_shares).sum(0)) / total
        return (
            shares @ grad_sums,
            grad_gates,
            (grad_scale * inverse).sum(0),
            grad_shift.sum(0),
            None,
        )


class _Mixture(torch.autograd.Function):
    """Each sample, scaled and shifted by its gates' mixture of the modes' affines."""

    @staticmethod
    def plain(input: Tensor, gates: Tensor, affines: Tensor) -> Tensor:
        scale, shift = _maps(input, gates @ affines)
        return torch.addcmul(shift, input, scale)

    @staticmethod
    def forward(ctx: Any, *inputs: Tensor) -> Tensor:
        ctx.save_for_backward(*inputs)
        return _Mixture.plain(*inputs)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        input, gates, affines = ctx.saved_tensors
        (scale,) = _maps(input, gates @ affines[:, : input.shape[1]])
        wide = ((g.to(gates.dtype), x.to(gates.dtype)) for g, x in _sample_groups(grad, input))
        sums = _concatenated([torch.cat([(g * x).sum((2, 3)), g.sum((2, 3))], 1) for g, x in wide])
        return grad * scale, sums @ affines.T, gates.T @ sums


def _apply(function: Any, *inputs: Any) -> Any:
    """Runs ``function``, or its plain operations under vmap and forward-mode differentiation."""
    if not torch.compiler.is_compiling() and (
        torch._C._are_functorch_transforms_active() or forward_ad._current_level >= 0
    ):
        return function.plain(*inputs)
    return function.apply(*inputs)


def _affines(sums: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    """Returns scale and shift (K, 2C), given the means of x and x^2 (K, 2C)."""
    mean, second_moment = sums.chunk(2, 1)
    scale = weight * ((second_moment - mean.square()).clamp_min(0) + eps).rsqrt()
    return torch.cat([scale, bias - scale * mean], 1)


def _sample_groups(*tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Yields groups of samples; on a CPU a float32 copy of a group fits the cache."""
    first = tensors[0]
    samples = max(1, _CACHED // max(1, first[:1].numel()))
    if first.device.type != "cpu" or samples >= len(first):
        return iter([tensors])
    return zip(*(torch.split(t, samples) for t in tensors), strict=True)


def _concatenated(groups: list[Tensor]) -> Tensor:
    return groups[0] if len(groups) == 1 else torch.cat(groups)


def _maps(input: Tensor, values: Tensor) -> tuple[Tensor, ...]:
    """Returns coefficients (N, m C) as m tensors that broadcast over ``input``, in its dtype."""
    channels, width = input.shape[1], input.shape[3]
    each = values.to(input.dtype).reshape(values.shape[0], values.shape[1] // channels, channels)
    # Under vmap a tensor's memory format is unknown.
    vmapped = torch._C._are_functorch_transforms_active()
    if channels >= _ROW or vmapped or not input.is_contiguous(memory_format=torch.channels_last):
        return each[..., None, None].unbind(1)
    # Repeated along W, so that one inner loop covers the W C values of a row instead of C.
    rows = each[:, :, None].expand(-1, -1, width, -1).contiguous()
    return rows.transpose(2, 3)[:, :, :, None].unbind(1)


def _wide_dtype(input: Tensor) -> torch.dtype:
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
                moments, input = _apply(_Moments, input)
                gates = self._gates(moments[:, : self.num_features], moments.dtype)
                moments = moments.to(gates.dtype)  # they differ in a float64 layer
                sums = self._track(moments, gates)
                if sums is None:
                    affines = _apply(
                        _BatchAffines, moments, gates, self.weight, self.bias, self.eps
                    )
                else:
                    affines = _affines(sums, self.weight, self.bias, self.eps)
            else:
                means = input.mean((2, 3), dtype=_wide_dtype(input))
                gates = self._gates(means, self.running_mean.dtype)
                running = torch.cat([self.running_mean, self.running_second_moment], 1)
                affines = _affines(running, self.weight, self.bias, self.eps)
            output: Tensor = _apply(_Mixture, input, gates, affines.to(gates.dtype))
            return output

    def _gates(self, means: Tensor, dtype: torch.dtype) -> Tensor:
        """Returns the gates (N, K), at least in ``dtype``."""
        gates: Tensor = self.gate(means.to(self.gate.weight.dtype)).softmax(1)
        return gates.to(torch.promote_types(gates.dtype, dtype))

    def _track(self, moments: Tensor, gates: Tensor) -> Tensor | None:
        """Updates the running statistics.

        Returns:
            The batch's means of x and x^2 in each mode, (K, 2C), over all processes; None unless
            the layer is synchronized.
        """
        if not (self.synchronized or self.track_running_stats):
            return None
        with torch.set_grad_enabled(torch.is_grad_enabled() and self.synchronized):
            sums = self._over_processes((gates / self._over_processes(gates.sum(0))).T @ moments)
        if self.track_running_stats:
            with torch.no_grad():
                self.num_batches_tracked.add_(1)
                newest = newest_weight(self.momentum, self.num_batches_tracked)
                for running, batch in zip(
                    (self.running_mean, self.running_second_moment), sums.chunk(2, 1), strict=True
                ):
                    running.lerp_(batch.to(running.dtype), newest)
        return sums if self.synchronized else None

    def _over_processes(self, sums: Tensor) -> Tensor:
        return sum_over_processes(sums) if self.synchronized else sums

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *args: Any) -> None:
        add_missing_count(state_dict, prefix, self.num_batches_tracked)
        super()._load_from_state_dict(state_dict, prefix, *args)

    def extra_repr(self) -> str:
        return (
            f"{self.num_features}, num_modes={self.num_modes}, eps={self.eps}, "
            f"momentum={self.momentum}"
        )


def modenorm(num_features: int, branches: Sequence[str] = ()) -> ModeNorm:
    """Returns a ModeNorm with two modes; it has no branches to route."""
    return ModeNorm(num_features)

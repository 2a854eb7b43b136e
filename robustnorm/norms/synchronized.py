"""Batch statistics over the images of all processes, on any device.

torch's SyncBatchNorm supports only its own layer, on GPUs; this module also covers routed layers,
ModeNorm and the CPU (Gloo). Every process must send the same number of batches through the same
layers, since each batch's statistics are exchanged in the forward and in the backward pass.
torch.compile does not compile these functions.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from robustnorm.norms.averages import newest_weight


def synchronize(model: nn.Module) -> None:
    """Makes layers take their batch statistics over all processes when training.

    Applies to routed batch norms, ModeNorm and ``nn.BatchNorm2d``, which becomes a
    ``SynchronizedBatchNorm2d`` in place. Parameters, buffers, their names and evaluation do not
    change. Training then needs an open process group.

    Args:
        model: Any module tree.
    """
    for module in model.modules():
        if type(module) is nn.BatchNorm2d:
            module.__class__ = SynchronizedBatchNorm2d
        elif hasattr(type(module), "synchronized"):
            module.synchronized = True  # type: ignore[assignment]


class SynchronizedBatchNorm2d(nn.BatchNorm2d):
    """``nn.BatchNorm2d`` with batch statistics over all processes."""

    def forward(self, input: Tensor) -> Tensor:
        if not self.training:
            output: Tensor = super().forward(input)
            return output
        self._check_input_dim(input)
        running_mean = running_var = None
        momentum = 0.0
        if self.track_running_stats and self.num_batches_tracked is not None:
            running_mean, running_var = self.running_mean, self.running_var
            self.num_batches_tracked.add_(1)
            momentum = newest_weight(self.momentum, self.num_batches_tracked)
        return batch_norm(  # type: ignore[no-any-return]
            input, running_mean, running_var, self.weight, self.bias, momentum, self.eps
        )


@torch.compiler.disable  # type: ignore[untyped-decorator]
def batch_norm(
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None,
    bias: Tensor | None,
    momentum: float,
    eps: float,
) -> Tensor:
    """Returns ``F.batch_norm`` in training mode over the images of all processes.

    Processes may hold different numbers of images, even none. Statistics are float32, or float64
    for float64 input. The gradient is that of the sum of all processes' losses.

    Args:
        input: (N, C, ...), floating point.
        running_mean: (C,), updated in place; None together with ``running_var``.
        running_var: (C,), updated with the unbiased variance.
        weight: (C,); None together with ``bias``.
        bias: (C,).
        momentum: Weight of this batch in the running statistics.
        eps: Added to the variance.
    """
    output: Tensor
    output, mean, variance, count = _Standardize.apply(input, eps)  # type: ignore[no-untyped-call]
    if running_mean is not None and running_var is not None:
        with torch.no_grad():
            unbiased = variance * (count / (count - 1).clamp_min(1))
            running_mean.lerp_(mean.to(running_mean.dtype), momentum)
            running_var.lerp_(unbiased.to(running_var.dtype), momentum)
    if weight is not None and bias is not None:
        output = torch.addcmul(_per_channel(bias, input), output, _per_channel(weight, input))
    return output.to(input.dtype)


@torch.compiler.disable  # type: ignore[untyped-decorator]
def sum_over_processes(values: Tensor) -> Tensor:
    """Returns the sum of ``values`` over all processes, as the gradient sums their losses."""
    total: Tensor = _Sum.apply(values)  # type: ignore[no-untyped-call]
    return total


class _Standardize(torch.autograd.Function):
    """(x - mean) / sqrt(var + eps), at least float32; also mean and variance (C,) and count ()."""

    @staticmethod
    def forward(ctx: Any, input: Tensor, eps: float) -> tuple[Tensor, ...]:
        values = input.to(torch.promote_types(input.dtype, torch.float32))
        count = values.new_tensor([values.numel() / values.shape[1]])
        # Means and squared deviations of all processes, combined as by Chan et al. (1979); plain
        # sums of squares would cancel.
        mean = values.sum(_dims(values)) / count.clamp_min(1)
        squares = (values - _per_channel(mean, values)).square().sum(_dims(values))
        gathered = _gather(torch.cat([count, mean, squares]))
        counts, means, squares = torch.split(gathered, [1, len(mean), len(mean)], 1)
        count = counts.sum()
        mean = (counts * means).sum(0) / count
        variance = (squares + counts * (means - mean).square()).sum(0) / count
        inverse = (variance + eps).rsqrt()
        output = (values - _per_channel(mean, values)) * _per_channel(inverse, values)
        ctx.save_for_backward(output, inverse, count)
        ctx.dtype = input.dtype
        ctx.mark_non_differentiable(mean, variance, count)
        return output, mean, variance, count

    @staticmethod
    def backward(ctx: Any, grad: Tensor, *_: Tensor) -> tuple[Tensor, None]:
        if torch.is_grad_enabled():  # ``once_differentiable`` is silent when ``grad`` is constant
            raise RuntimeError(
                "batch statistics over all processes have only first derivatives, got "
                "create_graph=True; train without sync_norm, or without second derivatives"
            )
        output, inverse, count = ctx.saved_tensors
        sums = torch.stack([grad.sum(_dims(grad)), (grad * output).sum(_dims(grad))])
        dist.all_reduce(sums)
        shift, slope = (_per_channel(mean, grad) for mean in sums / count)
        grad = (grad - shift - output * slope) * _per_channel(inverse, grad)
        return grad.to(ctx.dtype), None


class _Sum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        total = values.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        total: Tensor = sum_over_processes(grad)
        return total


def _gather(values: Tensor) -> Tensor:
    """Returns the ``values`` (D,) of all processes as rows."""
    rows = [torch.empty_like(values) for _ in range(dist.get_world_size())]
    dist.all_gather(rows, values)
    return torch.stack(rows)


def _dims(input: Tensor) -> list[int]:
    return [dim for dim in range(input.dim()) if dim != 1]


def _per_channel(values: Tensor, input: Tensor) -> Tensor:
    return values.view(-1, *(1,) * (input.dim() - 2))

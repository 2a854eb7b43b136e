"""Re-estimating a branch's running statistics, and their distance from the stored ones."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from robustnorm.attacks.contract import unchanged
from robustnorm.norms.routed import RoutedBatchNorm
from robustnorm.norms.routing import route
from robustnorm.studies.swap import split_layers


@dataclass(frozen=True)
class Drift:
    """Distance of a layer's re-estimated statistics from the stored ones.

    With m and s a channel's stored mean and standard deviation, and m' and s' the re-estimated
    ones: ``mean`` is the average over the channels of |m' - m| / s, and ``deviation`` that of
    |s' - s| / s; the other two are the maxima over the channels.
    """

    layer: str
    mean: float
    largest_mean: float
    deviation: float
    largest_deviation: float


@torch.no_grad()
def reestimate(model: nn.Module, branch: str, batches: Iterable[Tensor]) -> None:
    """Replaces the running statistics of one branch by those of ``batches``, in place.

    Each batch passes through ``branch`` once, normalized with its batch statistics as in training.
    A layer's mean and variance are then computed from all its inputs together, so that all images
    have the same weight. Weights, modes and other branches do not change.

    Args:
        model: A network whose routed layers keep statistics per branch.
        branch: The branch to re-estimate.
        batches: Images (N, C, H, W) in [0, 1] as the branch sees them: clean images for "clean",
            attacked ones for "adv".

    Raises:
        RoutingError: When a routed layer lacks the branch.
        ValueError: When no layer keeps statistics per branch, or there is no batch.

    References:
        Wu and Johnson, Rethinking "Batch" in BatchNorm, arXiv:2105.07576, Section 3 (the population
        variance of all batches).

    Examples:
        >>> from robustnorm.norms import AuxBN
        >>> layer, images = AuxBN(1), torch.tensor([0.0, 1.0, 0.0, 1.0]).view(4, 1, 1, 1)
        >>> reestimate(layer, "adv", images.split(2))
        >>> layer.running_mean.flatten(), layer.running_var.flatten()
        (tensor([0.0000, 0.5000]), tensor([1.0000, 0.3333]))
    """
    layers = split_layers(model)
    if not layers:
        raise ValueError(
            "re-estimation needs layers that keep statistics for each branch, such as auxbn or "
            "saauxbn; this model has none"
        )
    sums = {layer: _Sums() for layer in layers.values()}
    for images in batches:
        # Opened for each batch, so that producing the next one, such as an attack, is not measured.
        with unchanged(model), route(model, branch), _measured(sums):
            model.train()
            model(images)
    for layer, total in sums.items():
        if total.batches == 0:
            raise ValueError("re-estimation needs at least one batch of images, got none")
        new = (*total.statistics(), torch.tensor(total.batches))
        kept = layer.branch_statistics(layer.branches.index(branch))
        for target, source in zip(kept, new, strict=True):
            target.copy_(source)


class _Sums:
    """Sums of a layer's inputs and of their squares, (C,) float64, and the inputs' number."""

    def __init__(self) -> None:
        self.values: Tensor | float = 0.0
        self.squares: Tensor | float = 0.0
        self.count = self.batches = 0

    def add(self, layer: nn.Module, inputs: tuple[Tensor]) -> None:
        values = inputs[0].double().transpose(0, 1).flatten(1)  # (C, everything else)
        self.values = self.values + values.sum(1)
        self.squares = self.squares + values.square().sum(1)
        self.count += values.shape[1]
        self.batches += 1

    def statistics(self) -> tuple[Tensor, Tensor]:
        """Returns the mean and the unbiased variance, as in torch's running statistics."""
        mean, second_moment = (
            torch.as_tensor(total) / self.count for total in (self.values, self.squares)
        )
        biased = (second_moment - mean.square()).clamp_min(0)
        return mean, biased * (self.count / (self.count - 1))


@contextmanager
def _measured(sums: dict[RoutedBatchNorm, _Sums]) -> Iterator[None]:
    """In the block, adds the inputs of each layer to its sums."""
    hooks = [layer.register_forward_pre_hook(total.add) for layer, total in sums.items()]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def drift(stored: nn.Module, reestimated: nn.Module, branch: str) -> list[Drift]:
    """Compares the statistics of two copies of a network, layer by layer.

    Args:
        stored: The network with the stored statistics, whose standard deviations are the unit.
        reestimated: A copy of it after ``reestimate``.
        branch: The branch to compare.
    """
    others = split_layers(reestimated)
    found = []
    for name, layer in split_layers(stored).items():
        row = layer.branches.index(branch)
        mean, variance, _ = layer.branch_statistics(row)
        other_mean, other_variance, _ = others[name].branch_statistics(row)
        unit = (variance + layer.eps).sqrt()  # above 0 even in a constant channel
        means = (other_mean - mean).abs() / unit
        deviations = ((other_variance + layer.eps).sqrt() - unit).abs() / unit
        values = [f(x).item() for x in (means, deviations) for f in (torch.mean, torch.amax)]
        found.append(Drift(name, *values))
    return found

"""Combines the statistics of one branch with the affine of another."""

from __future__ import annotations

import copy

import torch
from torch import nn

from robustnorm.models.folding import fold
from robustnorm.norms.routed import RoutedBatchNorm
from robustnorm.norms.routing import route


def split_layers(model: nn.Module) -> dict[str, RoutedBatchNorm]:
    """Returns the layers of ``model`` that keep running statistics per branch, by name."""
    return {
        name: layer
        for name, layer in model.named_modules()
        if isinstance(layer, RoutedBatchNorm)
        if layer.statistics == "split" and layer.has_running_statistics
    }


@torch.no_grad()
def swapped(model: nn.Module, *, statistics: str, affine: str) -> nn.Module:
    """Returns a plain network with one branch's running statistics and another's affine.

    The copy shares nothing with ``model`` and has no branches: each routed layer becomes an
    plain batch norm. With the same branch twice it equals ``fold(model, branch)``.

    Args:
        model: Any module tree; a layer with shared statistics or a shared affine keeps them.
        statistics: The branch that provides the running mean and variance.
        affine: The branch that provides weight and bias.

    Raises:
        RoutingError: When a routed layer lacks one of the branches.

    References:
        Zhang et al., Towards Understanding Dual BN in Hybrid Adversarial Training,
        arXiv:2403.19150, which exchanges them at test time.

    Examples:
        >>> from robustnorm import resnet18
        >>> network = swapped(resnet18(width=4, norm="auxbn"), statistics="clean", affine="adv")
        >>> type(network.bn1).__name__
        'BatchNorm2d'
    """
    with route(model, (statistics, affine)):  # raises on unknown names
        network = copy.deepcopy(model)
    for layer in split_layers(network).values():
        source, target = (
            layer.branch_statistics(layer.branches.index(branch)) for branch in (statistics, affine)
        )
        for kept, wanted in zip(target, source, strict=True):
            kept.copy_(wanted)
    return fold(network, affine)

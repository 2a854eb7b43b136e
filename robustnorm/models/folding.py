"""Fixing a network to one branch: its routed layers become ordinary batch norms."""

from __future__ import annotations

import copy
from typing import TypeGuard

import torch
from torch import Tensor, nn

from robustnorm.attacks.contract import is_training
from robustnorm.models.fusion import fuse_convolutions, has_hooks
from robustnorm.models.replacement import (
    ROUTED,
    FoldedBatchNormAct2d,
    RoutedBatchNormAct2d,
    replace_layers,
)
from robustnorm.norms.routed import RoutedBatchNorm
from robustnorm.norms.routing import RoutedLayer, bind, route


def fold(model: nn.Module, branch: str, *, fuse: bool = False) -> nn.Module:
    """Returns a copy of ``model`` fixed to one branch, its routed layers replaced by batch norms.

    The copy shares nothing with ``model``, keeps its mode, and in evaluation computes what
    ``model`` computes through ``branch``, up to rounding. A RoutedBatchNorm1d, 2d or 3d becomes an
    ``nn.BatchNorm1d``, 2d or 3d; other routed layers, and those with hooks, are bound to the
    branch.

    Args:
        model: Any module tree; without routed layers it is copied unchanged.
        branch: A branch that every routed layer of ``model`` has.
        fuse: Also merge each batch norm into the convolution before it, if nothing else uses that,
            ``torch.fx`` can trace the forward, and no hook, ``no_grad`` or autocast would be lost.
            For evaluation only; ``robustnorm.models.faithful.difference`` compares the copy with
            the network on your images.

    Raises:
        RoutingError: When a routed layer lacks the branch.
        ValueError: When ``fuse`` is true and ``model`` is in train mode.

    Examples:
        >>> from robustnorm import resnet18
        >>> folded = fold(resnet18(norm="saauxbn", width=4), "adv")
        >>> sorted({type(m).__name__ for m in folded.modules() if "Norm2d" in type(m).__name__})
        ['BatchNorm2d']
    """
    if fuse and is_training(model):
        raise ValueError("fold with fuse=True needs the model in evaluation mode: model.eval()")
    with route(model, branch):  # raises on an unknown name
        folded = copy.deepcopy(model, _computed_tensors(model))
    folded = replace_layers(folded, _is_routed, lambda layer: _fold_layer(layer, branch))
    return fuse_convolutions(folded) if fuse else folded


def folded_state(folded: nn.Module) -> dict[str, Tensor]:
    """Returns the state of a network from ``fold``, under the names without branches."""
    prefixes = [f"{n}." for n, m in folded.named_modules() if isinstance(m, FoldedBatchNormAct2d)]
    state = dict[str, Tensor]()
    for name, value in folded.state_dict().items():
        layer = next((each for each in prefixes if name.startswith(each)), None)
        plain = name if layer is None else layer + name.removeprefix(f"{layer}bn.")
        state[plain] = value
    return state


def _computed_tensors(model: nn.Module) -> dict[int, Tensor]:
    """Returns copies, by id, of tensors that hooks recompute and that torch cannot deep-copy.

    These are the weights of pruned layers and of ``torch.nn.utils.weight_norm``.
    """
    attributes = (value for module in model.modules() for value in vars(module).values())
    return {
        id(value): value.detach().clone()
        for value in attributes
        if isinstance(value, Tensor) and not value.is_leaf
    }


def _is_routed(module: nn.Module) -> TypeGuard[RoutedLayer]:
    return isinstance(module, RoutedLayer)


@torch.no_grad()
def _fold_layer(layer: RoutedLayer, branch: str) -> nn.Module:
    if not isinstance(layer, RoutedBatchNorm) or has_hooks(layer):
        return bind(layer, branch)
    row = layer.branches.index(branch)
    kind = next(plain for plain, routed in ROUTED.items() if isinstance(layer, routed))
    running = layer.has_running_statistics
    folded = kind(
        layer.num_features,
        layer.eps,
        layer.momentum,
        track_running_stats=running,
        device=layer.weight.device,
        dtype=layer.weight.dtype,
    ).train(layer.training)
    state = (*layer.effective_affine(row), *(layer.branch_statistics(row) if running else ()))
    for target, source in zip((*folded.parameters(), *folded.buffers()), state, strict=True):
        target.copy_(source)
    return (
        FoldedBatchNormAct2d(folded, layer) if isinstance(layer, RoutedBatchNormAct2d) else folded
    )

"""Giving a network other norms: routed ones, which keep what it computes, or new ones."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase
from itertools import chain
from typing import TypeGuard

import torch
from torch import nn
from torch.nn.modules.batchnorm import _NormBase

from robustnorm.models.fusion import BatchNorm, has_hooks, is_batch_norm
from robustnorm.models.replacement import (
    ROUTED,
    Layer,
    NormAct,
    RoutedBatchNormAct2d,
    is_batch_norm_act,
    replace_layers,
)
from robustnorm.norms import NORMS
from robustnorm.norms.routed import RoutedBatchNorm
from robustnorm.norms.routing import RoutedLayer

_NO_BATCH_STATISTICS = (
    nn.GroupNorm, nn.LayerNorm, nn.RMSNorm,
    nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d,
)  # fmt: skip


def convert(
    model: nn.Module,
    norm: str,
    branches: Sequence[str] = ("clean", "adv"),
    *,
    layers: Sequence[str] = ("*",),
    keep: Sequence[str] = (),
) -> nn.Module:
    """Replaces the batch norms of ``model`` by a routed norm, in place.

    Each branch starts with the running statistics and the affine of the layer that it replaces, so
    in evaluation every branch computes what the model computed. (The shared affine of a sandwich,
    and the affine for a layer without one, start as an identity.) A layer without running
    statistics (track_running_stats=False) is converted to one without. Layers shared by several
    modules stay shared. Mode, device, dtype, eps, momentum and requires_grad are kept, and the
    weights of other layers are not copied. timm's BatchNormAct2d keeps its dropout and activation.

    Args:
        model: Any module tree.
        norm: Name of a routed norm in ``robustnorm.norms.NORMS``. BatchNorm1d, 2d and 3d become
            RoutedBatchNorm1d, 2d and 3d with that norm's statistics and affine.
        branches: Names of the branches.
        layers: Patterns for the names of the layers to convert, as ``model.named_modules()`` gives
            them; ``*`` matches any characters (``"layer4.*"``).
        keep: Patterns for the names of layers to leave unchanged.

    Returns:
        ``model``, or the new layer when ``model`` is itself a batch norm.

    Raises:
        ValueError: On an unknown norm or one without branches; a pattern that matches no
            normalization layer; nothing to convert; or layers that cannot be converted, all listed
            by name: GroupNorm and other norms without batch statistics, SyncBatchNorm, frozen,
            quantized and lazy batch norms, subclasses, and layers with hooks. The model is then
            unchanged; exclude such layers with ``keep``.

    Examples:
        >>> network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)).eval()
        >>> from robustnorm import route
        >>> with route(convert(network, "saauxbn"), "adv"):
        ...     network(torch.rand(1, 3, 8, 8)).shape
        torch.Size([1, 4, 6, 6])
        >>> convert(nn.Sequential(nn.BatchNorm2d(4), nn.GroupNorm(2, 4)), "auxbn")
        Traceback (most recent call last):
        ValueError: convert cannot convert '1' (GroupNorm: it has no batch statistics); ...
    """
    cell = NORMS[NORMS.check(norm)](1, branches)
    if not isinstance(cell, RoutedBatchNorm):
        raise ValueError(
            f"convert needs a norm with branches, got '{norm}', which cannot compute what a "
            "trained batch norm does; try 'auxbn' or 'saauxbn'"
        )
    chosen = _choose(model, layers, keep)
    obstacles = {
        name: reason
        for layer, name in chosen.items()
        if (reason := _obstacle(layer, cell.branches)) is not None
    }
    if obstacles:
        listed = ", ".join(f"'{name}' ({reason})" for name, reason in obstacles.items())
        raise ValueError(
            f"convert cannot convert {listed}; list the layers to leave unchanged in "
            f"keep={tuple(obstacles)}; nothing was changed"
        )

    def convertible(module: nn.Module) -> TypeGuard[BatchNorm]:
        return module in chosen and not isinstance(module, RoutedLayer)

    return replace_layers(model, convertible, lambda layer: _convert_layer(layer, cell))


def with_norm(model: nn.Module, norm: str, branches: Sequence[str] = ("clean", "adv")) -> nn.Module:
    """Replaces the batch norms of a network, in place, so that it can be trained with any norm.

    A routed norm starts as in ``convert``; one without branches, such as ModeNorm, is newly
    initialized; "bn" leaves the network as it is. Layers without batch statistics, such as
    LayerNorm, are kept.

    Args:
        model: Any module tree.
        norm: Name in ``robustnorm.norms.NORMS``.
        branches: Names of the branches.

    Returns:
        ``model``, or the new layer when ``model`` is itself a batch norm.

    Raises:
        ValueError: As ``convert``; for a norm without branches also on BatchNorm1d and 3d.
    """
    make = NORMS[NORMS.check(norm)]
    if norm == "bn":
        return model
    if not any(isinstance(m, _NormBase) or hasattr(m, "running_mean") for m in model.modules()):
        raise ValueError("it has no batch norm; 'bn' leaves a network as it is")
    keep = [n for n, m in model.named_modules() if isinstance(m, _NO_BATCH_STATISTICS)]
    if isinstance(make(1, branches), RoutedBatchNorm):
        return convert(model, norm, branches, keep=keep)
    chosen = _choose(model, ("*",), keep)
    obstacles = {name: reason for m, name in chosen.items() if (reason := _obstacle(m, ()))}
    for layer, name in chosen.items():
        if not isinstance(layer, nn.BatchNorm2d):
            obstacles[name] = f"{type(layer).__name__}: '{norm}' takes only features of images"
    if obstacles:
        raise ValueError("it has " + ", ".join(f"'{n}' ({r})" for n, r in obstacles.items()))

    def new_layer(layer: nn.BatchNorm2d) -> nn.Module:
        new: nn.Module = make(layer.num_features, branches)
        _like(layer, new).train(layer.training)
        return NormAct(new, layer) if is_batch_norm_act(layer) else new

    def is_chosen(module: nn.Module) -> TypeGuard[nn.BatchNorm2d]:
        return module in chosen

    return replace_layers(model, is_chosen, new_layer)


def _choose(model: nn.Module, layers: Sequence[str], keep: Sequence[str]) -> dict[nn.Module, str]:
    """Returns the normalization layers to convert, each with one of its names."""
    names: dict[nn.Module, list[str]] = {}
    for name, module in model.named_modules(remove_duplicate=False):
        # Whatever has running statistics counts as a batch norm, from any library.
        if isinstance(module, (_NormBase, *_NO_BATCH_STATISTICS)) or hasattr(
            module, "running_mean"
        ):
            names.setdefault(module, []).append(name)

    def named(pattern: str) -> set[nn.Module]:
        return {m for m, known in names.items() if any(fnmatchcase(n, pattern) for n in known)}

    for pattern in (*layers, *keep):
        if names and not named(pattern):
            raise ValueError(
                f"'{pattern}' names no normalization layer of the model, which has "
                f"{', '.join(known[0] for known in names.values())}; nothing was changed"
            )
    chosen = {module for pattern in layers for module in named(pattern)}
    chosen -= {module for pattern in keep for module in named(pattern)}
    if all(isinstance(module, (RoutedLayer, *_NO_BATCH_STATISTICS)) for module in chosen):
        raise ValueError("convert found no batch norm to convert; nothing was changed")
    return {module: known[0] for module, known in names.items() if module in chosen}


def _obstacle(module: nn.Module, branches: tuple[str, ...]) -> str | None:
    """Returns why a normalization layer cannot be converted, or None if it can."""
    kind = type(module).__name__
    if isinstance(module, RoutedLayer):
        same = module.branches == branches
        return None if same else f"{kind}: it already has branches, {module.branches}"
    if isinstance(module, _NO_BATCH_STATISTICS):
        return f"{kind}: it has no batch statistics"
    if isinstance(module, nn.SyncBatchNorm):
        return f"{kind}: its statistics span a process group"
    if not (is_batch_norm(module) or is_batch_norm_act(module)):
        return f"{kind}: it is not torch's BatchNorm1d, 2d or 3d"
    if has_hooks(module):
        return f"{kind}: it has hooks"
    return None


def _like(layer: nn.Module, new: Layer) -> Layer:
    """Moves a new layer to the device and type of another one, which may have no weight."""
    tensors = (t for t in chain(layer.buffers(), layer.parameters()) if t.is_floating_point())
    like = next(tensors, None)
    return new if like is None else new.to(like.device, like.dtype)


@torch.no_grad()
def _convert_layer(layer: BatchNorm, cell: RoutedBatchNorm) -> RoutedBatchNorm:
    kind = next(routed for plain, routed in ROUTED.items() if isinstance(layer, plain))
    routed = (RoutedBatchNormAct2d if is_batch_norm_act(layer) else kind)(
        layer.num_features,
        cell.branches,
        statistics=cell.statistics,
        affine=cell.affine,
        track_running_stats=layer.running_mean is not None,
    )
    routed.eps = layer.eps
    routed.momentum = layer.momentum
    _like(layer, routed)
    nn.init.ones_(routed.weight)
    if routed.affine == "sandwich":
        nn.init.ones_(routed.shared_weight)
    # Each copy broadcasts over the branches' rows.
    if layer.affine:
        routed.weight.copy_(layer.weight)
        routed.bias.copy_(layer.bias)
        for name, parameter in routed.named_parameters():
            parameter.requires_grad_(getattr(layer, name.removeprefix("shared_")).requires_grad)
    for name, buffer in layer.named_buffers():
        routed.get_buffer(name).copy_(buffer)
    for name, child in layer.named_children():
        routed.add_module(name, child)
    return routed.train(layer.training)

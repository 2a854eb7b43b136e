"""Converting networks between ordinary batch normalization and routed layers."""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Callable, Sequence
from fnmatch import fnmatchcase
from itertools import chain
from typing import TypeGuard, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from robustnorm.attacks.contract import is_training
from robustnorm.models.fusion import BatchNorm, fuse_convolutions, has_hooks, is_batch_norm
from robustnorm.norms import NORMS
from robustnorm.norms.routed import (
    RoutedBatchNorm,
    RoutedBatchNorm1d,
    RoutedBatchNorm2d,
    RoutedBatchNorm3d,
)
from robustnorm.norms.routing import RoutedLayer, bind, route

_ROUTED: dict[type[BatchNorm], type[RoutedBatchNorm]] = {
    nn.BatchNorm1d: RoutedBatchNorm1d,
    nn.BatchNorm2d: RoutedBatchNorm2d,
    nn.BatchNorm3d: RoutedBatchNorm3d,
}
_NO_BATCH_STATISTICS = (
    nn.GroupNorm, nn.LayerNorm, nn.RMSNorm,
    nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d,
)  # fmt: skip


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
    folded = _replace(folded, _is_routed, lambda layer: _fold_layer(layer, branch))
    return fuse_convolutions(folded) if fuse else folded


class _NormAct(nn.Sequential):
    """A norm, then the dropout and activation of timm's BatchNormAct2d that it replaces."""

    def __init__(self, norm: nn.Module, layer: nn.Module) -> None:
        super().__init__(OrderedDict(bn=norm, **dict(layer.named_children())))
        self.training = layer.training


class _BatchNormAct2d(_NormAct):
    """timm's layer of that name, folded."""


def folded_state(folded: nn.Module) -> dict[str, Tensor]:
    """Returns the state of a network from ``fold``, under the names without branches."""
    prefixes = [f"{n}." for n, m in folded.named_modules() if isinstance(m, _BatchNormAct2d)]
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

    return _replace(model, convertible, lambda layer: _convert_layer(layer, cell))


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
        return _NormAct(new, layer) if _is_batch_norm_act(layer) else new

    def is_chosen(module: nn.Module) -> TypeGuard[nn.BatchNorm2d]:
        return module in chosen

    return _replace(model, is_chosen, new_layer)


class _RoutedBatchNormAct2d(RoutedBatchNorm2d):
    """The replacement of timm's BatchNormAct2d: dropout and activation follow the norm."""

    drop: nn.Module
    act: nn.Module

    def forward(self, input: Tensor) -> Tensor:
        output: Tensor = self.act(self.drop(super().forward(input)))
        return output


Layer = TypeVar("Layer", bound=nn.Module)


def _replace(
    model: nn.Module,
    matches: Callable[[nn.Module], TypeGuard[Layer]],
    replacement: Callable[[Layer], nn.Module],
) -> nn.Module:
    """Replaces each matching layer once, however many modules share it."""
    if matches(model):
        return replacement(model)
    replaced: dict[nn.Module, nn.Module] = {}
    for parent in list(model.modules()):
        # Not named_children(), which skips a layer's second name.
        for name, child in parent._modules.items():
            if child is not None and matches(child):
                if child not in replaced:
                    replaced[child] = replacement(child)
                parent._modules[name] = replaced[child]
    return model


def _is_routed(module: nn.Module) -> TypeGuard[RoutedLayer]:
    return isinstance(module, RoutedLayer)


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
    if not (is_batch_norm(module) or _is_batch_norm_act(module)):
        return f"{kind}: it is not torch's BatchNorm1d, 2d or 3d"
    if has_hooks(module):
        return f"{kind}: it has hooks"
    return None


def _is_batch_norm_act(module: nn.Module) -> bool:
    """Returns whether ``module`` is timm's batch norm followed by dropout and activation."""
    kind = type(module)
    return kind.__module__.startswith("timm.") and kind.__name__ == "BatchNormAct2d"


@torch.no_grad()
def _fold_layer(layer: RoutedLayer, branch: str) -> nn.Module:
    if not isinstance(layer, RoutedBatchNorm) or has_hooks(layer):
        return bind(layer, branch)
    row = layer.branches.index(branch)
    kind = next(plain for plain, routed in _ROUTED.items() if isinstance(layer, routed))
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
    return _BatchNormAct2d(folded, layer) if isinstance(layer, _RoutedBatchNormAct2d) else folded


def _like(layer: nn.Module, new: Layer) -> Layer:
    """Moves a new layer to the device and type of another one, which may have no weight."""
    tensors = (t for t in chain(layer.buffers(), layer.parameters()) if t.is_floating_point())
    like = next(tensors, None)
    return new if like is None else new.to(like.device, like.dtype)


@torch.no_grad()
def _convert_layer(layer: BatchNorm, cell: RoutedBatchNorm) -> RoutedBatchNorm:
    kind = next(routed for plain, routed in _ROUTED.items() if isinstance(layer, plain))
    routed = (_RoutedBatchNormAct2d if _is_batch_norm_act(layer) else kind)(
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

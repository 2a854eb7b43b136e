"""Moving a trained network between ordinary BatchNorm2d and routed layers."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import TypeGuard, TypeVar

import torch
from torch import fx, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from robustnorm.norms import NORMS
from robustnorm.norms.routed import RoutedBatchNorm2d
from robustnorm.routing import route


def fold(model: nn.Module, branch: str, *, fuse: bool = False) -> nn.Module:
    """Returns a copy of ``model`` fixed to one branch, its routed layers now ``nn.BatchNorm2d``.

    The copy shares nothing with ``model``, keeps its mode, and in evaluation computes what
    ``model`` computes through ``branch``, up to rounding.

    Args:
        model: Any module tree; one without routed layers is copied as it is.
        branch: A branch that every routed layer of ``model`` has.
        fuse: Also merge each BatchNorm2d into the convolution whose output it alone reads, where
            ``torch.fx`` can follow the forward; elsewhere the layers stay apart. For evaluation
            only.

    Raises:
        RoutingError: When a routed layer lacks the branch.
        ValueError: When ``fuse`` is asked for and ``model`` is in train mode.

    Examples:
        >>> from robustnorm import resnet18
        >>> folded = fold(resnet18(norm="saauxbn", width=4), "adv")
        >>> sorted({type(m).__name__ for m in folded.modules() if "Norm2d" in type(m).__name__})
        ['BatchNorm2d']
    """
    if fuse and any(module.training for module in model.modules()):
        raise ValueError("fold with fuse=True needs the model in evaluation mode: model.eval()")
    with route(model, branch):  # checks the name on every layer
        folded = copy.deepcopy(model)
    folded = _replace(folded, _is_routed, lambda layer: _fold_layer(layer, branch))
    return _fuse(folded) if fuse else folded


def convert(model: nn.Module, norm: str, branches: Sequence[str] = ("clean", "adv")) -> nn.Module:
    """Replaces every ``nn.BatchNorm2d`` of ``model`` by a routed norm, in place.

    Each branch starts with the running statistics and the affine of the layer that it replaces
    (a sandwich with an identity as its shared affine), so that in evaluation every branch computes
    what the model computed. Layers shared by several modules stay shared. Mode, device, dtype and
    requires_grad are kept.

    Args:
        model: Any module tree; its parameters other than those of BatchNorm2d are kept, not copied.
        norm: A routed norm's name in ``robustnorm.norms.NORMS``.
        branches: Names of the branches.

    Returns:
        ``model``, or the new layer when ``model`` is itself a BatchNorm2d.

    Raises:
        ValueError: On an unknown norm, one without branches, or a model with nothing to convert or
            with a BatchNorm2d that keeps no running statistics; nothing is replaced then.

    Examples:
        >>> network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)).eval()
        >>> with route(convert(network, "saauxbn"), "adv"):
        ...     network(torch.rand(1, 3, 8, 8)).shape
        torch.Size([1, 4, 6, 6])
    """
    factory = NORMS[NORMS.check(norm)]
    if not isinstance(factory(1, branches), RoutedBatchNorm2d):
        raise ValueError(
            f"convert needs a norm with branches, got '{norm}', which cannot keep what a trained "
            "BatchNorm2d computes on each of them; try 'auxbn' or 'saauxbn'"
        )
    layers = {name: m for name, m in model.named_modules() if _is_batch_norm(m)}
    if not layers:
        raise ValueError("convert found no nn.BatchNorm2d in the model; nothing was changed")
    bare = [name for name, layer in layers.items() if layer.running_mean is None]
    if bare:
        raise ValueError(
            f"convert needs running statistics to keep, and {', '.join(bare)} has none "
            "(track_running_stats=False); nothing was changed"
        )
    return _replace(
        model, _is_batch_norm, lambda layer: _convert_layer(layer, factory, tuple(branches))
    )


Layer = TypeVar("Layer", bound=nn.Module)


def _replace(
    model: nn.Module,
    matches: Callable[[nn.Module], TypeGuard[Layer]],
    replacement: Callable[[Layer], nn.Module],
) -> nn.Module:
    """Replaces the layers that match, each once however many modules share it."""
    if matches(model):
        return replacement(model)
    replaced: dict[nn.Module, nn.Module] = {}
    for parent in list(model.modules()):
        # Not named_children(), which passes over a layer's second name.
        for name, child in parent._modules.items():
            if child is not None and matches(child):
                if child not in replaced:
                    replaced[child] = replacement(child)
                parent._modules[name] = replaced[child]
    return model


def _is_routed(module: nn.Module) -> TypeGuard[RoutedBatchNorm2d]:
    return isinstance(module, RoutedBatchNorm2d)


def _is_batch_norm(module: nn.Module) -> TypeGuard[nn.BatchNorm2d]:
    # Not its subclasses, whose forward may do more than normalize.
    return type(module) is nn.BatchNorm2d


class _Tracer(fx.Tracer):
    """Follows a forward down to the modules that hold no BatchNorm2d."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return _is_batch_norm(m) or not any(map(_is_batch_norm, m.modules()))


def _fuse(model: nn.Module) -> nn.Module:
    try:
        graph = _Tracer().trace(model)
    except Exception:  # a forward that depends on values: whatever it raises, it cannot be followed
        return model
    modules = dict(model.named_modules())
    calls = [node for node in graph.nodes if node.op == "call_module"]
    called = [modules[str(node.target)] for node in calls]
    for node, norm in zip(calls, called, strict=True):
        source = node.args[0]
        if not (_is_batch_norm(norm) and isinstance(source, fx.Node)):
            continue
        convolution = modules.get(str(source.target)) if source.op == "call_module" else None
        if (
            type(convolution) is nn.Conv2d
            and norm.running_mean is not None
            and len(source.users) == called.count(convolution) == called.count(norm) == 1
        ):
            parent, _, name = str(source.target).rpartition(".")
            setattr(modules[parent], name, fuse_conv_bn_eval(convolution, norm))
            node.replace_all_uses_with(source)
            graph.erase_node(node)
    return fx.GraphModule(model, graph)


@torch.no_grad()
def _fold_layer(layer: RoutedBatchNorm2d, branch: str) -> nn.BatchNorm2d:
    row = layer.branches.index(branch)
    folded = nn.BatchNorm2d(layer.num_features, layer.eps, layer.momentum)
    folded.to(layer.weight.device, layer.weight.dtype).train(layer.training)
    state = (*layer.effective_affine(row), *layer.branch_statistics(row))
    for target, source in zip((*folded.parameters(), *folded.buffers()), state, strict=True):
        target.copy_(source)
    return folded


@torch.no_grad()
def _convert_layer(
    layer: nn.BatchNorm2d, factory: Callable[..., RoutedBatchNorm2d], branches: tuple[str, ...]
) -> RoutedBatchNorm2d:
    # convert() has refused layers without these.
    assert layer.running_mean is not None
    assert layer.running_var is not None
    assert layer.num_batches_tracked is not None
    routed = factory(layer.num_features, branches)
    routed.eps = layer.eps
    routed.momentum = 0.1 if layer.momentum is None else layer.momentum
    routed.to(layer.running_mean.device, layer.running_mean.dtype).train(layer.training)
    if routed.affine == "sandwich":
        routed.shared_weight.fill_(1)
        routed.shared_bias.zero_()
    # Each copy broadcasts over the rows of the branches.
    routed.running_mean.copy_(layer.running_mean)
    routed.running_var.copy_(layer.running_var)
    routed.num_batches_tracked.copy_(layer.num_batches_tracked)
    if layer.affine:
        routed.weight.copy_(layer.weight)
        routed.bias.copy_(layer.bias)
        for parameter in routed.parameters():
            parameter.requires_grad_(layer.weight.requires_grad)
    else:
        routed.weight.fill_(1)
        routed.bias.zero_()
    return routed

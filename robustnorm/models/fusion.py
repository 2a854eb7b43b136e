"""Merging batch normalization into the convolutions before it, for evaluation."""

from __future__ import annotations

import builtins
import operator
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, TypeGuard

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F
from torch.nn.utils.fusion import fuse_conv_bn_eval

from robustnorm.norms.synchronized import SynchronizedBatchNorm2d

Convolution = nn.Conv1d | nn.Conv2d | nn.Conv3d
BatchNorm = nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d


def is_batch_norm(module: nn.Module) -> TypeGuard[BatchNorm]:
    """Returns whether ``module`` is torch's BatchNorm1d, 2d or 3d, or ``SynchronizedBatchNorm2d``.

    Other subclasses do not count: their forward may do more than normalize.
    """
    plain = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, SynchronizedBatchNorm2d)
    return type(module) in plain


def has_hooks(module: nn.Module) -> bool:
    """Returns whether calling ``module`` may run more than its forward and backward."""
    kinds = ("_forward", "_forward_pre", "_backward", "_backward_pre")
    return any(getattr(module, f"{kind}_hooks") for kind in kinds)


def _is_convolution(module: nn.Module | None) -> TypeGuard[Convolution]:
    # No subclasses, and no hooks: both may compute the weight.
    kinds = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
    return module is not None and type(module) in kinds and not has_hooks(module)


_DEVICES = ("cpu", "cuda")


@contextmanager
def _proxies_are_tensors() -> Iterator[None]:
    """Makes ``isinstance(x, Tensor)`` true for proxies in a traced forward, as for their tensors.

    Replaces Python's own function for the block. Proxies of class Tensor would do in Python, but
    torch's C++ code would read them as tensors and crash.
    """
    original = builtins.isinstance

    def isinstance_or_proxy(value: Any, kinds: Any) -> bool:
        if type(value) is fx.Proxy:
            alternatives = kinds if type(kinds) is tuple else getattr(kinds, "__args__", (kinds,))
            if Tensor in alternatives:
                return True
        return original(value, kinds)

    builtins.isinstance = isinstance_or_proxy
    try:
        yield
    finally:
        builtins.isinstance = original


class _Tracer(fx.Tracer):
    """Traces a forward down to the modules that contain no batch normalization.

    A graph records no modes, so a forward that disables gradients or enables autocast is refused.
    """

    def proxy(self, node: fx.Node) -> fx.Proxy:
        if not torch.is_grad_enabled() or any(map(torch.is_autocast_enabled, _DEVICES)):
            raise RuntimeError("the forward disables gradients or enables autocast")
        return fx.Proxy(node, self)

    def create_arg(self, a: Any) -> Any:
        return a.node if type(a) is fx.Proxy else super().create_arg(a)

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return is_batch_norm(m) or not any(map(is_batch_norm, m.modules()))


@contextmanager
def _no_autocast() -> Iterator[None]:
    with ExitStack() as stack:
        for device in _DEVICES:
            stack.enter_context(torch.autocast(device, enabled=False))
        yield


def fuse_convolutions(model: nn.Module) -> nn.Module:
    """Merges each batch normalization into the convolution before it, if nothing else uses that.

    A ReLU that alone uses a convolution, batch norm or sum then works in place.

    Args:
        model: In evaluation mode; it is modified. It is returned unchanged if ``torch.fx`` cannot
            trace its forward.
    """
    if has_hooks(model):  # tracing would drop them
        return model
    try:
        with torch.enable_grad(), _no_autocast(), _proxies_are_tensors():
            graph = _Tracer().trace(model)
    except Exception:  # tracing a forward that depends on values may raise anything
        return model
    modules = dict(model.named_modules())
    calls = [node for node in graph.nodes if node.op == "call_module"]
    called = [modules[str(node.target)] for node in calls]
    for node, norm in zip(calls, called, strict=True):
        source = node.args[0]
        if not (is_batch_norm(norm) and isinstance(source, fx.Node)):
            continue
        convolution = modules.get(str(source.target)) if source.op == "call_module" else None
        if (
            _is_convolution(convolution)
            and not has_hooks(norm)
            and norm.running_mean is not None
            and len(source.users) == called.count(convolution) == called.count(norm) == 1
        ):
            parent, _, name = str(source.target).rpartition(".")
            setattr(modules[parent], name, fuse_conv_bn_eval(convolution, norm))
            node.replace_all_uses_with(source)
            graph.erase_node(node)
    _relu_in_place(graph, modules)
    return fx.GraphModule(model, graph)


def _relu_in_place(graph: fx.Graph, modules: dict[str, nn.Module]) -> None:
    for node in graph.nodes:
        if node.op == "call_function" and node.target is F.relu and _owns_its_input(node, modules):
            node.kwargs = node.kwargs | {"inplace": True}


def _owns_its_input(node: fx.Node, modules: dict[str, nn.Module]) -> bool:
    """Returns whether the node's input is a new tensor that no other node uses."""
    source = node.args[0]
    if not isinstance(source, fx.Node) or len(source.users) > 1:
        return False
    if source.op == "call_function":
        return source.target in (operator.add, torch.add)
    module = modules.get(str(source.target)) if source.op == "call_module" else None
    if module is None or has_hooks(module):
        return False
    return _is_convolution(module) or is_batch_norm(module)

"""Selecting a branch of a network's routed layers, for a ``with`` block or permanently.

A routed layer keeps several sets of statistics or affines, one per branch, and has no default
branch. ``route`` selects one for one network and for the code called inside one block.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NoReturn

import torch
from torch import Tensor, nn

from robustnorm.norms.scope import Selection, active, close_route, open_route


class RoutingError(RuntimeError):
    """A routed layer was run outside any route, or a route names a branch that does not exist.

    Examples:
        >>> from robustnorm.norms import AuxBN
        >>> AuxBN(3)(torch.zeros(2, 3, 4, 4))
        Traceback (most recent call last):
        robustnorm.norms.routing.RoutingError: AuxBN has branches 'clean', 'adv' and no default: ...
    """


class RoutedLayer(nn.Module):
    """Base class of the layers whose branch ``route`` selects.

    Args:
        branches: One or more different names; row i of each per-branch tensor belongs to
            ``branches[i]``.
    """

    def __init__(self, branches: Sequence[str]) -> None:
        super().__init__()
        if isinstance(branches, str) or not branches or len(set(branches)) != len(branches):
            raise ValueError(
                f"branches must be a sequence of one or more different names, got {branches!r}"
            )
        self.branches = tuple(branches)

    def __prepare_scriptable__(self) -> NoReturn:
        """Refuses torch.jit.script, which cannot follow a route."""
        raise RoutingError(
            f"TorchScript cannot compile {type(self).__name__}, whose branch is chosen outside of "
            "it: script `fold(model, branch)`, or trace `bind(model, branch)`"
        )

    def selection(self, batch_size: int) -> Selection:
        """Returns what the active route selects for a batch of ``batch_size`` samples."""
        selection = active(self)
        if selection is None:
            raise RoutingError(
                f"{type(self).__name__} has branches {_names(self)} and no default: run the model "
                "inside `with route(model, branch):`, opened in this thread, task or generator, or "
                "use `bind(model, branch)`"
            )
        selected, graph_task = selection
        # Activation checkpointing repeats a forward pass inside backward, when the open route may
        # not be that of the first forward pass.
        if not torch.compiler.is_compiling() and graph_task != torch._C._current_graph_task_id():
            raise RoutingError(
                "a routed layer was recomputed during backward, after the route of its first "
                "forward had ended: put the route inside the checkpointed function, for example "
                "`checkpoint(bind(model, branch), images, use_reentrant=False)`"
            )
        if isinstance(selected, Tensor):
            if len(selected) != batch_size:
                raise RoutingError(
                    f"route has branch indices for {len(selected)} samples, "
                    f"the batch has {batch_size}"
                )
        elif isinstance(selected, tuple) and batch_size % len(selected):
            raise RoutingError(
                f"a batch of {batch_size} does not divide into {len(selected)} equal parts, one "
                f"for each of {[self.branches[i] for i in selected]}"
            )
        return selected


@contextmanager
def route(model: nn.Module, branch: str | Sequence[str] | Tensor) -> Iterator[None]:
    """Selects the branch of every routed layer of ``model`` for the block.

    Blocks nest, and leaving a block in any way restores the previous route. Other models, deep
    copies and other threads are not affected: a thread that runs the model must open a route of
    its own, as must a task that a coroutine starts. While a generator or coroutine is suspended
    inside a block, the block does not apply to other code. On a model without routed layers nothing
    happens, so BN runs through the same code.

    Args:
        model: Any module tree.
        branch: A name, for the whole batch; a sequence of names, which splits the batch into equal
            consecutive parts, one branch each; or an int64 tensor (N,) with the row of each
            sample's branch.

    Raises:
        RoutingError: On entry, when a routed layer lacks the branch or the index is out of range.
            Inside the block, when a batch does not fit the names or the index, or a layer is
            recomputed during backward. Outside any block, when a routed layer is run.

    Examples:
        >>> from robustnorm.norms import AuxBN
        >>> layer = AuxBN(3).eval()
        >>> with route(layer, "adv"):
        ...     layer(torch.zeros(2, 3, 4, 4)).shape
        torch.Size([2, 3, 4, 4])
        >>> with route(layer, "adversarial"):
        ...     pass
        Traceback (most recent call last):
        robustnorm.norms.routing.RoutingError: no branch 'adversarial': AuxBN has 'clean', 'adv'
    """
    opened = open_route({layer: _select(layer, branch) for layer in routed_layers(model)})
    try:
        yield
    finally:
        close_route(opened)


class Bound(nn.Module):
    """A network fixed to one branch; see ``bind``."""

    def __init__(self, model: nn.Module, branch: str) -> None:
        super().__init__()
        self.model = model
        self.branch = branch

    # Forwarded to the model: tools read the mode, call eval(), and restore it with train(); with a
    # flag of its own, the wrapper would put the model into train mode.
    @property
    def training(self) -> bool:
        return "model" in self._modules and bool(getattr(self.model, "training", False))

    @training.setter
    def training(self, mode: bool) -> None:
        """Does nothing: ``train(mode)`` passes the mode on to the model."""

    def forward(self, images: Tensor) -> Tensor:
        with route(self.model, self.branch):
            logits: Tensor = self.model(images)
        return logits

    def extra_repr(self) -> str:
        return f"branch={self.branch!r}"


def bind(model: nn.Module, branch: str) -> nn.Module:
    """Returns an ordinary module (images to logits) fixed to one branch of ``model``.

    It shares the model's parameters, buffers and mode. Give it to tools that do not know about
    branches (AutoAttack, torchattacks, RobustBench).

    Args:
        model: Any module tree; without routed layers any name is accepted.
        branch: A branch that every routed layer of ``model`` has.

    Raises:
        RoutingError: When a routed layer lacks the branch.

    Examples:
        >>> from robustnorm import resnet18
        >>> attacked = bind(resnet18(norm="auxbn", width=4).eval(), "adv")
        >>> attacked(torch.rand(2, 3, 8, 8)).shape
        torch.Size([2, 10])
    """
    with route(model, branch):  # raises on an unknown name
        return Bound(model, branch)


def routed_layers(model: nn.Module) -> list[RoutedLayer]:
    """Returns the routed layers of ``model``, each once, in the order of ``model.modules()``."""
    return [module for module in model.modules() if isinstance(module, RoutedLayer)]


def branches_of(model: nn.Module) -> tuple[str, ...]:
    """Returns the branch names of ``model``, or () without routed layers.

    Raises:
        RoutingError: When two layers have different branches.
    """
    known = {layer.branches: layer for layer in routed_layers(model)}
    if len(known) > 1:
        raise RoutingError(
            "the routed layers of a model must have the same branches, got "
            + " and ".join(_names(layer) for layer in known.values())
        )
    return next(iter(known), ())


def _select(layer: RoutedLayer, branch: str | Sequence[str] | Tensor) -> Selection:
    if isinstance(branch, Tensor):
        if branch.dtype != torch.int64 or branch.dim() != 1:
            raise RoutingError(
                "a branch index must be an int64 tensor of shape (N,), got "
                f"{branch.dtype} of shape {tuple(branch.shape)}"
            )
        if len(branch) and not (branch.min() >= 0 and branch.max() < len(layer.branches)):
            raise RoutingError(
                f"a branch index must lie in 0..{len(layer.branches) - 1} ({_names(layer)}), got "
                f"values from {branch.min().item()} to {branch.max().item()}"
            )
        return branch
    if isinstance(branch, str):
        return _row(layer, branch)
    if not isinstance(branch, Sequence) or not branch:
        raise RoutingError(
            f"a branch must be a name, a sequence of names or an int64 tensor, got {branch!r}; "
            f"{type(layer).__name__} has {_names(layer)}"
        )
    return tuple(_row(layer, name) for name in branch)


def _row(layer: RoutedLayer, name: str) -> int:
    if name not in layer.branches:
        raise RoutingError(f"no branch {name!r}: {type(layer).__name__} has {_names(layer)}")
    return layer.branches.index(name)


def _names(layer: RoutedLayer) -> str:
    return ", ".join(map(repr, layer.branches))

"""Determines which open routes apply to the running code: those in whose blocks it was called.

A context variable separates tasks and threads. A generator or coroutine that is suspended inside a
block leaves that block open while its caller continues outside it, so a route also remembers the
generator or coroutine that opened it and applies only while that one runs.
"""

from __future__ import annotations

import contextlib
import inspect
import sys
import threading
from collections.abc import Iterator, Mapping
from contextvars import ContextVar
from types import FrameType

import torch
from torch import Tensor, nn

# A branch for the whole batch, for each of its equal consecutive parts, or for each sample.
Selection = int | tuple[int, ...] | Tensor

_CAN_SUSPEND = inspect.CO_GENERATOR | inspect.CO_COROUTINE | inspect.CO_ASYNC_GENERATOR
_CONTEXTLIB = contextlib.contextmanager.__code__.co_filename


class OpenRoute:
    """One block of ``route``.

    Attributes:
        selections: The selection for each layer; empty once the block has ended.
        graph_task: The backward pass during which the block began, if any.
        opener: The innermost generator or coroutine in which the block began, or None.
        thread: The thread in which the block began.
        can_be_left_open: Whether the block is in the body of ``opener`` itself.
    """

    def __init__(self, selections: Mapping[nn.Module, Selection]) -> None:
        self.selections: Mapping[nn.Module, Selection] = selections
        self.graph_task = torch._C._current_graph_task_id()
        self.thread = threading.get_ident()
        callers = list(_callers())
        suspendable = [frame for frame in callers if _can_suspend(frame)]
        self.opener = suspendable[0] if suspendable else None
        self.can_be_left_open = callers[0] is self.opener


_OPEN: ContextVar[tuple[OpenRoute, ...]] = ContextVar("open routes", default=())


class _Traceable(threading.local):
    """The selections for compiled code, which can read a thread's attributes but not contexts.

    Layers whose selection only the frames can tell are missing; compiled code then calls Python.
    """

    def __init__(self) -> None:
        self.stack: list[OpenRoute] = []
        self.active: dict[nn.Module, tuple[Selection, int]] = {}

    def refresh(self) -> None:
        unknown = {layer for r in self.stack if r.can_be_left_open for layer in r.selections}
        self.active = {
            layer: (selected, route.graph_task)
            for route in self.stack
            for layer, selected in route.selections.items()
            if layer not in unknown
        }


_TRACEABLE = _Traceable()


@torch.compiler.disable  # type: ignore[untyped-decorator]
def open_route(selections: Mapping[nn.Module, Selection]) -> OpenRoute:
    """Opens a block for the caller of a ``contextlib.contextmanager`` function."""
    route = OpenRoute(selections)
    _OPEN.set((*(other for other in _OPEN.get() if other.selections), route))
    _TRACEABLE.stack.append(route)
    _TRACEABLE.refresh()
    return route


@torch.compiler.disable  # type: ignore[untyped-decorator]
def close_route(route: OpenRoute) -> None:
    """Closes a block, also in contexts that were copied inside it."""
    route.selections, route.opener = {}, None
    # By identity, so that blocks closed out of order do not revive each other.
    _OPEN.set(tuple(other for other in _OPEN.get() if other is not route))
    _TRACEABLE.stack[:] = [other for other in _TRACEABLE.stack if other is not route]
    _TRACEABLE.refresh()


def active(layer: nn.Module) -> tuple[Selection, int] | None:
    """Returns the selection for ``layer`` and its backward pass, or None outside a block."""
    if torch.compiler.is_compiling() and layer in _TRACEABLE.active:
        return _TRACEABLE.active[layer]
    route = _innermost(layer)
    return None if route is None else (route.selections[layer], route.graph_task)


@torch.compiler.disable  # type: ignore[untyped-decorator]
def _innermost(layer: nn.Module) -> OpenRoute | None:
    thread = threading.get_ident()
    routes = [r for r in reversed(_OPEN.get()) if layer in r.selections and r.thread == thread]
    frame: FrameType | None = sys._getframe() if any(r.opener for r in routes) else None
    while frame is not None:
        for route in routes:
            if route.opener is frame:
                return route
        frame = frame.f_back
    return next((route for route in routes if route.opener is None), None)


def _callers() -> Iterator[FrameType]:
    """Yields the frames of the context manager's user and its callers, without contextlib's."""
    frame: FrameType | None = sys._getframe()
    while frame is not None and frame.f_code.co_filename != _CONTEXTLIB:
        frame = frame.f_back  # skips this module and torch.compile
    while frame is not None:
        caller = frame.f_back
        is_manager = frame.f_code.co_name == "__aenter__" or (
            caller is not None and caller.f_code.co_filename == _CONTEXTLIB and _can_suspend(frame)
        )
        if not is_manager and frame.f_code.co_filename != _CONTEXTLIB:
            yield frame
        frame = caller


def _can_suspend(frame: FrameType) -> bool:
    return bool(frame.f_code.co_flags & _CAN_SUSPEND)

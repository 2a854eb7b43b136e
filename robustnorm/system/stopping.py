"""Stopping long work at points where nothing is lost."""

from __future__ import annotations

import math
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from robustnorm.system.errors import Status

# Called between two pieces of work with the seconds that the next one is expected to take, and with
# ``WITHIN`` in the middle of one, where stopping loses work; returns True to stop.
ShouldStop = Callable[[float], bool]
WITHIN = -math.inf  # always within budget: only a signal stops the work

_SIGNALS = ("SIGTERM", "SIGUSR1")
# A scheduler may signal a process twice for one reason: directly and through its parent.
_SAME_SIGNAL = 1.0


class Stopped(Exception):  # noqa: N818 - stopping was requested, nothing went wrong
    """The work was stopped between two pieces; results so far are saved or in the exception."""


def never(_seconds: float) -> bool:
    """Never stops the work."""
    return False


def interrupted(should_stop: ShouldStop) -> bool:
    """Returns whether to stop in the middle of a piece of work: for a signal, not for a budget."""
    return should_stop(WITHIN)


def either(one: ShouldStop, other: ShouldStop) -> ShouldStop:
    """Returns a ``ShouldStop`` that stops as soon as one of two does."""
    return lambda seconds: one(seconds) or other(seconds)


class SignalStop:
    """Stops the work after SIGTERM or SIGUSR1; an instance is a ``ShouldStop``.

    Until it is called for the first time there is nothing to save, and the first signal ends the
    process with status 143. From then on it returns True after a signal, and a second signal ends
    the process at once. Ctrl-C raises a KeyboardInterrupt, and is remembered: libraries that it
    interrupts raise other errors.

    Attributes:
        received: Whether a signal arrived.
        interrupted: Whether Ctrl-C was pressed.
    """

    def __init__(self) -> None:
        self.received = self.interrupted = False
        self._was_called = False
        self._first = 0.0

    def __call__(self, _seconds: float = 0.0) -> bool:
        self._was_called = True
        return self.received

    @contextmanager
    def installed(self) -> Iterator[None]:
        """Handles the signals within the block; does nothing outside the main thread."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        # Windows has no SIGUSR1.
        signals = [getattr(signal, name) for name in _SIGNALS if hasattr(signal, name)]
        before = {each: signal.signal(each, self._handle) for each in signals}
        if signal.getsignal(signal.SIGINT) != signal.SIG_IGN:
            before[signal.SIGINT] = signal.signal(signal.SIGINT, self._interrupt)
        try:
            yield
        finally:
            for each, handler in before.items():
                signal.signal(each, handler)

    def _interrupt(self, _number: int, _frame: FrameType | None) -> None:
        self.interrupted = True
        raise KeyboardInterrupt

    def _handle(self, number: int, _frame: FrameType | None) -> None:
        name, now = signal.Signals(number).name, time.monotonic()
        if self.received:
            if now - self._first > _SAME_SIGNAL:
                _print_error(f"{name} again: stopped at once; saved work is kept")
                os._exit(Status.PREEMPTED)
            return
        self.received, self._first = True, now
        if not self._was_called:
            _print_error(f"{name}: exit {Status.PREEMPTED:d}, there is nothing to save")
            sys.exit(Status.PREEMPTED)
        _print_error(
            f"{name}: saving after this step, then exit {Status.PREEMPTED:d}; a second signal "
            "stops at once"
        )


def _print_error(message: str) -> None:
    # Bypasses Python's buffers, which may be in use when the signal arrives.
    os.write(2, f"robustnorm: {message}\n".encode())


class Budget:
    """Time budget that starts now; an instance is a ``ShouldStop``.

    Args:
        seconds: The budget.
        clock: Returns the seconds since an arbitrary moment.

    Examples:
        >>> seconds = iter([100.0, 130.0, 130.0, 130.0])
        >>> budget = Budget(60, clock=lambda: next(seconds))
        >>> budget.left
        30.0
        >>> budget(10), budget(40)
        (False, True)
    """

    def __init__(self, seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._end = clock() + seconds

    @property
    def left(self) -> float:
        """Seconds left, negative once the budget is exceeded."""
        return self._end - self._clock()

    def __call__(self, seconds: float = 0.0) -> bool:
        return self.left <= seconds

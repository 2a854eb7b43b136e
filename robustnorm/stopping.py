"""Stopping long work between two of its pieces, where nothing is lost."""

from __future__ import annotations

import time
from collections.abc import Callable

# Asked between two pieces of work, with the seconds that the next one takes as far as is known;
# True stops the work there.
ShouldStop = Callable[[float], bool]


class Stopped(Exception):  # noqa: N818 - it was asked for, nothing went wrong
    """The work was stopped between two pieces; what was done is kept or told by the exception."""


def never(_seconds: float) -> bool:
    """Does not stop the work."""
    return False


class Budget:
    """Seconds that work may take, counted from now; an instance is a ``ShouldStop``.

    Args:
        seconds: From now to the end.
        clock: Seconds since any moment.

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
        """Seconds left, below 0 when overdrawn."""
        return self._end - self._clock()

    def __call__(self, seconds: float = 0.0) -> bool:
        return self.left <= seconds

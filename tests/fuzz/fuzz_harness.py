"""Gives made inputs to a reader and counts what becomes of them."""

from __future__ import annotations

import io
import resource
import signal
import time
import traceback
from collections import Counter
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import hypothesis
from hypothesis import HealthCheck, Phase, Verbosity, given
from hypothesis.strategies import SearchStrategy

from robustnorm.system.errors import UserError

REFUSED, ACCEPTED, FAULT, HANG = "refused in one sentence", "accepted", "traceback", "hang"
_SECONDS = 2  # of processor time, since other programs may be busy
_PATIENCE = 30  # then the reader is stopped
_MEMORY = 2**30


@dataclass(frozen=True)
class Target:
    """A reader and what is made for it.

    ``read`` takes an input, uses all that it reads, and may refuse it by a UserError of one line.
    """

    inputs: SearchStrategy[Any]
    read: Callable[[Any], object]
    share: float = 1.0  # of the inputs of a whole run


@dataclass
class Found:
    """How often each outcome was seen, in how many seconds, and the first fault of each place."""

    counts: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0
    faults: dict[str, str] = field(default_factory=dict)


class Hung(BaseException):
    pass


def fuzz(target: Target, inputs: int, *, seed: int | None = None) -> Found:
    """Gives the target that many inputs, the same ones each time, or others for each seed."""
    found = Found()

    @hypothesis.settings(
        max_examples=inputs,
        database=None,
        deadline=None,
        derandomize=seed is None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
        verbosity=Verbosity.quiet,
    )
    @given(target.inputs)
    def check(made: Any) -> None:
        begin = time.perf_counter()
        outcome, place, text = attempt(target.read, made)
        if time.perf_counter() - begin > _SECONDS and outcome in (REFUSED, ACCEPTED):
            begin = time.process_time()  # asking for it takes a millisecond on some systems
            attempt(target.read, made)
            if (seconds := time.process_time() - begin) > _SECONDS:
                outcome, place, text = HANG, "slow", f"{seconds:.1f} s"
        found.counts[outcome] += 1
        if outcome in (FAULT, HANG):
            found.faults.setdefault(place, f"{text}\n{str(made)[:2000]!r}")

    if seed is not None:
        check = hypothesis.seed(seed)(check)
    before, begin = signal.signal(signal.SIGALRM, _stop), time.perf_counter()
    try:
        check()
    finally:
        signal.signal(signal.SIGALRM, before)
    found.seconds = time.perf_counter() - begin
    return found


def _stop(_signal: int, _frame: object) -> None:
    raise Hung


def attempt(read: Callable[[Any], object], made: Any) -> tuple[str, str, str]:
    """Returns the outcome, and the place and text of a fault."""
    signal.alarm(_PATIENCE)
    try:
        with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            read(made)
        return ACCEPTED, "", ""
    except SystemExit:  # help was printed
        return ACCEPTED, "", ""
    except Hung:
        return HANG, place_of(traceback.format_exc()), f"more than {_PATIENCE} s"
    except UserError as error:
        if str(error).strip() and len(str(error).splitlines()) == 1:
            return REFUSED, "", ""
        return FAULT, "not one line", repr(str(error))[:500]
    except Exception:
        text = traceback.format_exc()
        return FAULT, place_of(text), text[-3000:]
    finally:
        signal.alarm(0)


def place_of(text: str) -> str:
    """Returns the last place in the package of a traceback, and the error."""
    lines = text.splitlines()
    own = [line.strip() for line in lines if "/robustnorm/" in line and "File" in line]
    return f"{own[-1] if own else ''} {lines[-1].partition(':')[0]}"


def limit_memory() -> None:
    """Lets this process take a gigabyte more than it has."""
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + _MEMORY,) * 2)

"""One question, one process: what a tool leaves behind does not reach the next question."""

from __future__ import annotations

import multiprocessing
import sys
from collections.abc import Callable
from contextlib import redirect_stdout
from multiprocessing.connection import Connection

from trap_tools import RAW, Outcome, ask

_SECONDS = 120


def ask_apart(
    tool: str,
    name: str,
    *,
    ask: Callable[[str, str], Outcome] = ask,
    seconds: float = _SECONDS,
) -> Outcome:
    """Asks a tool about a trap in a forked process.

    AutoAttack turns gradients off for the whole process and leaves them off when a network raises
    an error, so that each later answer would be another one.

    Returns:
        Its outcome; what ends the process or takes longer than ``seconds`` is a raw error.
    """
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_send, args=(sender, ask, tool, name), daemon=True)
    process.start()
    sender.close()
    try:
        if receiver.poll(seconds):
            return receiver.recv()  # type: ignore[no-any-return]
        return Outcome(RAW, None, f"no answer within {seconds:g} s")
    except EOFError:
        process.join()
        return Outcome(RAW, None, f"the process ended with status {process.exitcode}")
    finally:
        process.kill()
        process.join()
        receiver.close()


def _send(sender: Connection, ask: Callable[[str, str], Outcome], tool: str, name: str) -> None:
    with redirect_stdout(sys.stderr):  # standard output is for the table
        sender.send(ask(tool, name))

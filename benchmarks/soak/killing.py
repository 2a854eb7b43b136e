"""A training run in a separate process, killed with SIGKILL at a given moment."""

from __future__ import annotations

import json
import logging
import multiprocessing
import sys
import threading
from collections.abc import Callable
from fractions import Fraction
from multiprocessing.connection import Connection
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from robustnorm.runs import Run
from robustnorm.settings.config import Config
from robustnorm.system.stopping import WITHIN
from robustnorm.work.evaluate import evaluate_records
from robustnorm.work.train import train_run

# Processes are forked from one that has imported everything and runs no thread.
_CONTEXT = multiprocessing.get_context("forkserver")
# torch's optimizers import the compiler, which takes seconds.
_CONTEXT.set_forkserver_preload(
    ["robustnorm.work.train", "sklearn.datasets", "torch._dynamo", "torch._inductor"]
)
_TIMES = {"seconds", "validation_seconds", "images_per_second"}

# Steps of a few milliseconds, each followed by a save: most of the time is spent saving.
TINY = Config(
    name="tiny",
    data="digits",
    train_limit=64,
    validation=10,
    width=2,
    epochs=2,
    batch_size=16,
    learning_rate=0.05,
    epsilon=Fraction(3, 16),
    step_size=Fraction(3, 64),
    train_steps=1,
    validation_steps=1,
    save_minutes=0.0,
    device="cpu",
)
STEPS_PER_EPOCH = 4


def train_and_kill(
    config: Config, steps: int, seconds: float = 0.0, *, evaluates: bool = False
) -> tuple[int, bool]:
    """Trains, or continues, in a separate process and kills it.

    Args:
        config: Settings of the run.
        steps: Steps before the kill; with ``evaluates``, parts of the evaluation.
        seconds: Delay from the end of the last step, when saving begins, to the kill.
        evaluates: Evaluates instead of training.

    Returns:
        The steps taken, and whether the run was already finished.

    Raises:
        RuntimeError: When the run failed.
    """
    receiver, sender = _CONTEXT.Pipe(duplex=False)
    work = evaluate_records if evaluates else train_run
    process = _CONTEXT.Process(target=_work, args=(work, config, sender))
    process.start()
    sender.close()
    taken = _received(receiver, steps)
    process.join(seconds if taken == steps else None)
    ended = process.exitcode is not None
    if ended and process.exitcode != 0:
        raise RuntimeError(f"the run failed with status {process.exitcode}")
    process.kill()
    process.join()
    return taken + _received(receiver), ended


def finish(config: Config) -> None:
    """Trains to the end, in a process like the killed ones."""
    train_and_kill(config, steps=sys.maxsize)


def _received(receiver: Connection, most: int = sys.maxsize) -> int:
    """Counts messages until the sender is gone or ``most`` have arrived."""
    count = 0
    try:
        while count < most:
            receiver.recv_bytes()
            count += 1
    except EOFError:
        pass
    return count


def steps_saved(config: Config) -> int:
    """Returns the number of steps in the newest checkpoint, 0 without one."""
    run = Run.find(config.folder, "last")
    if run is None:
        return 0
    return run.epoch * STEPS_PER_EPOCH + len(run.within_epoch.get("losses", ()))


def end_state(config: Config) -> tuple[dict[str, dict[str, Tensor]], list[dict[str, Any]]]:
    """Returns the files of a finished run: tensors of "last" and "best", metrics without times."""
    folder = config.folder
    tensors = {tag: Run.open(folder, tag).checkpoint.tensors for tag in ("last", "best")}
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return tensors, [{k: v for k, v in line.items() if k not in _TIMES} for line in lines]


def run_differences(config: Config, other: Config) -> list[str]:
    """Describes how two finished runs differ: tensors, random states, lines of metrics."""
    (tensors, lines), (others, other_lines) = end_state(config), end_state(other)
    found = [] if lines == other_lines else ["metrics.jsonl"]
    for tag, mine in tensors.items():
        theirs = others[tag]
        found += sorted(mine.keys() ^ theirs.keys())
        found += [
            f"{tag}: {name}"
            for name in mine.keys() & theirs.keys()
            # As bytes, so that -0.0 and 0.0 differ.
            if mine[name].numpy().tobytes() != theirs[name].numpy().tobytes()
        ]
    return found


def _work(work: Callable[..., object], config: Config, sender: Connection) -> None:
    torch.set_num_threads(1)
    tqdm.set_lock(threading.RLock())  # a lock shared by processes would outlive a kill
    logging.getLogger("robustnorm").setLevel(logging.ERROR)

    def tell(seconds: float) -> bool:
        if seconds != WITHIN:  # called after a step, not within one
            sender.send_bytes(b"step")
        return False

    work(config, should_stop=tell)

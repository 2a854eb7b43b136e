"""Two processes at once: in the folder of one run, on one evaluation, on one archive.

    python -m benchmarks.soak.together [--times 20]

Two trainings are driven step by step, and saved after each step. Before the second begins, the lock
file is left alone or removed, or the folder is replaced; on a file system with locks, with locks on
files only (as NFS), and without locks.
"""

from __future__ import annotations

import argparse
import errno
import fcntl
import logging
import multiprocessing
import os
import shutil
import stat
import tarfile
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from multiprocessing.connection import Connection
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from PIL import Image
from tabulate import tabulate

from benchmarks.soak.killing import TINY
from benchmarks.workload import machine
from robustnorm.data import load_dataset
from robustnorm.records.digests import digest_of_verdicts
from robustnorm.settings.config import Config
from robustnorm.system.errors import UserError
from robustnorm.system.stopping import WITHIN
from robustnorm.work.evaluate import evaluate_records
from robustnorm.work.train import train_run

_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(
    ["robustnorm.work.train", "sklearn.datasets", "torch._dynamo", "torch._inductor"]
)
# What cannot be locked.
SYSTEMS: dict[str, tuple[str, ...]] = {
    "with locks": (),
    "of files alone": ("folder",),
    "without locks": ("folder", "file"),
}
CHANGES = ("nothing", "lock file removed", "folder replaced")


def without_locks(kinds: tuple[str, ...]) -> None:
    """Makes the kernel's locks fail, in this process, on files or folders."""
    true = fcntl.flock

    def flock(descriptor: int, how: int) -> None:
        kind = "folder" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else "file"
        if kind in kinds:
            raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))
        true(descriptor, how)

    # Its arguments are positional only.
    fcntl.flock = flock  # type: ignore[assignment]


def _train(config: Config, kinds: tuple[str, ...], connection: Connection) -> None:
    """Trains; reports each step and then waits to be told whether to stop."""
    torch.set_num_threads(1)
    logging.getLogger("robustnorm").setLevel(logging.ERROR)
    without_locks(kinds)

    def asked(seconds: float) -> bool:
        if seconds == WITHIN:
            return False
        connection.send("step")
        return bool(connection.recv())

    try:
        train_run(config, should_stop=asked)
        connection.send("ended")
    except UserError as error:
        connection.send(str(error))


def _begin(work: Callable[..., None], *arguments: Any) -> tuple[Any, Connection]:
    here, there = _CONTEXT.Pipe()
    process = _CONTEXT.Process(target=work, args=(*arguments, there))
    process.start()
    there.close()
    return process, here


def _change(folder: Path, change: str) -> None:
    if change == "lock file removed":
        for path in folder.glob(".lock*"):
            path.unlink()
    elif change == "folder replaced":
        folder.rename(folder.with_name("aside"))


def two_trainings(output: Path, kinds: tuple[str, ...], change: str) -> str:
    """Returns what became of the second training and of the first one's next save."""
    config = replace(TINY, norm="bn", epochs=1000, output=str(output))
    folder = config.folder
    first, one = _begin(_train, config, kinds)
    assert one.recv() == "step"
    one.send(False)
    assert one.recv() == "step"  # so the step before is saved
    _change(folder, change)
    second, other = _begin(_train, config, kinds)
    reply = other.recv()
    one.send(True)  # it saves its state and ends
    after = one.recv()
    saved = "the first saves" if after == "ended" else "the first ends without saving"
    if reply == "step":
        other.send(True)
        assert other.recv() == "ended"
    else:
        assert "is in use by" in reply, reply
    for process in (first, second):
        process.join()
    shutil.rmtree(output)
    return f"the second {'trains' if reply == 'step' else 'is refused'}, {saved}"


def _evaluate(config: Config, connection: Connection) -> None:
    torch.set_num_threads(1)
    logging.getLogger("robustnorm").setLevel(logging.ERROR)
    _tell(connection, lambda: digest_of_verdicts(evaluate_records(config)[0]))


def _load(archive: Path, cache: Path, connection: Connection) -> None:
    logging.getLogger("robustnorm").setLevel(logging.ERROR)
    _tell(connection, lambda: load_dataset(str(archive), root=cache).sha256)


def _tell(connection: Connection, work: Callable[[], str]) -> None:
    connection.recv()  # so that both begin at once
    try:
        connection.send(work())
    except Exception as error:
        connection.send(f"{type(error).__name__}: {error}")


def both(work: Callable[..., None], *arguments: Any) -> set[str]:
    """Returns the results of two processes that begin at the same time."""
    begun = [_begin(work, *arguments) for _ in range(2)]
    for _, connection in begun:
        connection.send("now")
    results = {connection.recv() for _, connection in begun}
    for process, _ in begun:
        process.join()
    return results


def two_readers(times: int, place: Path) -> tuple[int, int]:
    """Returns how often two evaluations, and two readings of an archive, gave the right result."""
    config = replace(TINY, norm="auxbn", output=str(place), test_limit=130, checks="none")
    train_run(config)
    expected = digest_of_verdicts(evaluate_records(replace(config, reports=str(place / "one")))[0])
    dice = np.random.default_rng(0)
    for part in ("train", "test"):
        for label in ("cat", "dog"):
            (place / "pets" / part / label).mkdir(parents=True)
            for number in range(40):
                pixels = dice.integers(0, 256, (16, 16, 3), np.uint8)
                Image.fromarray(pixels).save(place / "pets" / part / label / f"{number}.png")
    archive = place / "pets.tar.gz"
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(place / "pets", "pets")
    content = load_dataset(str(archive), root=place / "cache").sha256
    same = [0, 0]
    for number in range(times):
        here = replace(config, reports=str(place / f"reports{number}"))
        same[0] += both(_evaluate, here) == {expected}
        same[1] += both(_load, archive, place / f"cache{number}") == {content}
    return same[0], same[1]


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--times", type=int, default=10)
    times = parser.parse_args().times
    logging.getLogger("robustnorm").setLevel(logging.ERROR)
    rows = []
    with TemporaryDirectory() as folder:
        for system, kinds in SYSTEMS.items():
            for change in CHANGES:
                place = Path(folder) / "run"
                found = Counter(two_trainings(place, kinds, change) for _ in range(times))
                rows += [(system, change, what, n) for what, n in found.items()]
        evaluations, archives = two_readers(times, Path(folder) / "both")
    print(
        "## Two processes at once\n\nA second training in the folder of one that is running, also "
        f"where the process is made to refuse locks as some file systems do; {machine()}.\n"
    )
    print(tabulate(rows, ["file system", "before the second", "outcome", "times"], "pipe"))
    print(
        f"\nTwo evaluations of one run at once: {evaluations} of {times} times both gave the "
        f"verdicts of one alone. Two readings of one archive at once: {archives} of {times} times "
        "both gave its content."
    )


if __name__ == "__main__":
    main()

"""A disk that becomes full at any byte: each file must then be either the old or the new one.

    python -m benchmarks.soak.full [--times 100]

The kernel's limit on the size of a file, RLIMIT_FSIZE, cuts writing off at a random byte.
"""

from __future__ import annotations

import argparse
import logging
import random
import resource
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import numpy as np
import torch
from tabulate import tabulate

from benchmarks.soak.killing import TINY
from benchmarks.workload import machine
from robustnorm import resnet18
from robustnorm.exchange.export import FORMATS, Description, export
from robustnorm.records.journal import ChunkVerdict, Journal, Key
from robustnorm.records.record import Record
from robustnorm.reporting.render import Cell, Table, save_tables
from robustnorm.runs.checkpoint import load_checkpoint, save_checkpoint
from robustnorm.system.errors import DiskError
from robustnorm.work.evaluate import evaluate_records
from robustnorm.work.train import train_run

Files = dict[Path, bytes]
_EXPORTS = 3  # each takes seconds


class Writing(NamedTuple):
    """What is written into a folder.

    Args:
        write: Writes the old (0) or the new (1) content into a folder.
        is_whole: Returns whether a folder's content can be read and is one of the two.
    """

    write: Callable[[Path, int], object]
    is_whole: Callable[[Path], bool]


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """For the block, lets no file of this process grow beyond a size."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def write_until_full(writing: Writing, folder: Path, times: int) -> tuple[int, int, int]:
    """Writes new content over the old, on a disk that is full at a random byte.

    Returns:
        How often writing was cut off, how often a DiskError reported that, and how often the
        content was whole, without any other file left behind.
    """
    dice, cut, reported, whole = random.Random(0), 0, 0, 0
    most = 0
    for _ in range(times):
        shutil.rmtree(folder, ignore_errors=True)
        writing.write(folder, 0)
        most = most or max(path.stat().st_size for path in _files(folder))
        try:
            with largest_file(dice.randrange(most)):
                writing.write(folder, 1)
        except DiskError:
            cut, reported = cut + 1, reported + 1
        except Exception:
            cut += 1
        whole += writing.is_whole(folder) and not any("tmp" in path.name for path in _files(folder))
    return cut, reported, whole


def _files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


def _record(output: Path) -> Record:
    config = replace(TINY, norm="auxbn", output=str(output), reports=str(output), checks="none")
    train_run(config)
    return evaluate_records(replace(config, test_limit=130))[0]


def _records(record: Record) -> Writing:
    both = [record, replace(record, seed=1)]
    return Writing(
        lambda folder, new: both[new].save(folder / "x.json"),
        lambda folder: (folder / "x.json").read_text() in [each.to_json() for each in both],
    )


def checkpoints() -> Writing:
    """Writes "last" of a run."""
    models = [resnet18("auxbn", width=4 + new) for new in range(2)]

    def write(folder: Path, new: int) -> None:
        manifest = {"epoch": new, "config": {}, "dataset": {}, "history": []}
        save_checkpoint(folder, "last", models[new], manifest)

    return Writing(
        write, lambda folder: load_checkpoint(folder, "last").manifest["epoch"] in (0, 1)
    )


def journals() -> Writing:
    """Adds a part to a journal that has one."""
    bits = np.ones(20_000, bool)
    part = {Key("none", "final", "clean", "clean"): ChunkVerdict(bits, bits)}

    def write(folder: Path, new: int) -> None:
        Journal(folder / "x.journal", "a").add(new, part)

    def is_whole(folder: Path) -> bool:
        found = Journal(folder / "x.journal", "a").chunks
        return 0 in found and all(each.keys() == part.keys() for each in found.values())

    return Writing(write, is_whole)


def _tables() -> Writing:
    def write(folder: Path, new: int) -> None:
        rows: list[tuple[Cell, ...]] = [(str(number + new), "x") for number in range(200)]
        save_tables([Table("x", "Title", ("Number", "x"), rows, [])], folder, "tables")

    def is_whole(folder: Path) -> bool:
        with TemporaryDirectory() as other:
            both = [Path(other) / str(new) for new in range(2)]
            for new, each in enumerate(both):
                write(each, new)
            return all(
                path.read_bytes() in [(each / path.name).read_bytes() for each in both]
                for path in _files(folder)
            )

    return Writing(write, is_whole)


def _exports(to: str) -> Writing:
    images, former = torch.rand(3, 3, 8, 8), Files()
    model = resnet18("auxbn", width=4).eval()
    arguments = {"norm": "bn", "width": 4}
    description = Description({"network": "resnet18", "arguments": arguments}, "card")

    def write(folder: Path, new: int) -> None:
        export(
            model,
            ("clean", "adv")[new],
            folder / f"x{FORMATS[to].suffix}",
            to=to,
            images=images,
            description=description,
        )
        if not new:
            former.clear()
            former.update({path: path.read_bytes() for path in _files(folder)})

    def is_whole(folder: Path) -> bool:
        return {path: path.read_bytes() for path in _files(folder)} == former

    return Writing(write, is_whole)


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--times", type=int, default=100)
    times = parser.parse_args().times
    logging.getLogger("robustnorm").setLevel(logging.ERROR)
    with TemporaryDirectory() as temporary:
        folder = Path(temporary)
        record = _record(folder / "run")
        writings: list[tuple[str, Callable[[], Writing], int]] = [
            ("checkpoint", checkpoints, times),
            ("record", partial(_records, record), times),
            ("journal", journals, times),
            ("tables", _tables, times),
            *((f"export, {to}", partial(_exports, to), _EXPORTS) for to in FORMATS),
        ]
        rows = [
            (name, n, *write_until_full(make(), folder / "here", n)) for name, make, n in writings
        ]
    print(
        "## Full disk\n\nNew content written over the old, with writing cut off at a random byte "
        f"(RLIMIT_FSIZE); {machine()}. Whole: the content can be read and is the old or the new "
        "one; nothing else is left.\n"
    )
    print(tabulate(rows, ["file", "times", "cut off", "reported in one sentence", "whole"], "pipe"))


if __name__ == "__main__":
    main()

"""Runs stopped within an epoch, kept in the repository; later versions must continue them.

    PYTHONPATH=. python tests/helpers/golden.py

makes them anew, which is right only when a result is meant to change; the CHANGELOG then says so.
"""

import contextlib
import itertools
import json
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from fractions import Fraction
from functools import partial
from pathlib import Path
from unittest import mock

import torch

from robustnorm.data.dataset import Augmentation, Dataset, Split
from robustnorm.runs.checkpoint import load_checkpoint
from robustnorm.settings.config import Config
from robustnorm.work import train as command

GOLDEN = Path(__file__).parents[1] / "robustnorm" / "commands" / "golden"
NORMS = ("saauxbn", "modenorm")
_TIMES = {"seconds", "validation_seconds", "images_per_second", "device"}
_CONFIG = Config(
    name="golden",
    data="waves",
    validation=8,
    width=1,
    epochs=2,
    batch_size=8,
    learning_rate=0.02,
    epsilon=Fraction(3, 16),
    step_size=Fraction(3, 64),
    train_steps=2,
    validation_steps=2,
    device="cpu",
)


def config(norm: str) -> Config:
    return replace(_CONFIG, norm=norm)


def waves() -> Dataset:
    """Images of 8x8 pixels, drawn by integer arithmetic alone: waves of a frequency per class."""
    number, row, column = torch.meshgrid(*map(torch.arange, (48, 8, 8)), indexing="ij")
    labels = torch.arange(48) % 3
    images = (labels[:, None, None] + 1) * (row + 2 * column) * 37 + number * 11 + row * number * 5
    split = Split((images % 256).to(torch.uint8)[:, None], labels)
    return Dataset("waves", ("a", "b", "c"), split, split, Augmentation(1, True), "0" * 64)


def continue_run(settings: Config) -> dict:
    """Trains to the end; returns the hash of all tensors and the metrics without times."""
    with mock.patch.object(command, "load_data", return_value=waves()):
        command.train_run(settings)
    manifest = load_checkpoint(settings.folder, "last").manifest
    history = [{k: v for k, v in e.items() if k not in _TIMES} for e in manifest["history"]]
    return {"sha256": manifest["sha256"], "history": history}


def environment() -> dict[str, str]:
    """What the bits of a result depend on besides the code."""
    cpus = Path("/proc/cpuinfo")
    lines = cpus.read_text().splitlines() if cpus.exists() else []
    return {
        "torch": torch.__version__,
        "capability": torch.backends.cpu.get_cpu_capability(),
        "cpu": next((line.split(":")[1].strip() for line in lines if "model name" in line), ""),
    }


def stop(steps: Iterator[int], seconds: float) -> bool:
    """Stops a run after the seventh of its ten steps."""
    return seconds >= 0 and next(steps) == 7


def make() -> None:
    """Stops each run in its second epoch, keeps its folder, and writes down how it goes on."""
    torch.set_num_threads(1)
    for norm in NORMS:
        with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
            settings = config(norm)
            steps = itertools.count(1)
            with mock.patch.object(command, "load_data", return_value=waves()):
                command.train_run(settings, should_stop=partial(stop, steps))
            kept = GOLDEN / norm
            shutil.rmtree(kept, ignore_errors=True)
            kept.mkdir(parents=True)
            for name in (
                "last.json",
                load_checkpoint(settings.folder, "last").manifest["file"],
            ):
                shutil.copy(settings.folder / name, kept / name)
            end = {"environment": environment()} | continue_run(settings)
            (kept / "end.json").write_text(json.dumps(end, indent=1) + "\n")


if __name__ == "__main__":
    make()

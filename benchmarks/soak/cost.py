"""The cost of saving, as a share of an epoch of CIFAR-10 at the default interval.

    python -m benchmarks.soak.cost [--width 64] [--batch 8] [--steps 3] [--rounds 7]

Steps are taken by ``train``, and a run's states are saved: "best" and "last" after each epoch,
"last" every ten minutes, each synced to the disk. The time of an epoch is computed from the time
per image.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from tabulate import tabulate

from benchmarks.workload import machine
from robustnorm import resnet18
from robustnorm.data.dataset import Augmentation, Split
from robustnorm.runs.described import place_model
from robustnorm.settings.config import Config
from robustnorm.system.allocator import keep_freed_memory
from robustnorm.system.device import resolve_device
from robustnorm.training.advprop import train
from robustnorm.training.progress import EpochRecord, Position
from robustnorm.training.saving import Saver

_IMAGES = 49_872  # of CIFAR-10, without the 128 that are held out


def random_split(count: int, device: torch.device) -> Split:
    """Returns noise images of CIFAR-10's size."""
    images = torch.randint(256, (count, 3, 32, 32), dtype=torch.uint8, device=device)
    return Split(images, torch.randint(10, (count,), device=device))


def seconds(save: Callable[[], None], rounds: int) -> float:
    """Returns the median time of a save."""
    times = []
    for _ in range(rounds):
        start = time.perf_counter()
        save()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def main() -> None:
    """Measures steps and saves, and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--precision", choices=["fp32", "bf16"], default="bf16")
    parser.add_argument("--device", default="auto")
    options = parser.parse_args()
    keep_freed_memory()
    device = resolve_device(options.device)
    torch.manual_seed(0)
    config = Config(
        width=options.width, batch_size=options.batch, precision=options.precision,
        epochs=2, validation_steps=1,
    )  # fmt: skip
    model = resnet18("saauxbn", width=options.width)
    place_model(model, device, channels_last=config.channels_last)
    optimizer = torch.optim.SGD(model.parameters(), lr=config.learning_rate, momentum=0.9)
    split = random_split(options.batch * options.steps, device)
    # The first epoch warms up memory and kernels.
    *_, record = train(
        model, split, random_split(8, device),
        config=config, augmentation=Augmentation(4, True), optimizer=optimizer,
    )  # fmt: skip
    epoch = record.seconds / len(split) * _IMAGES
    with TemporaryDirectory() as folder:
        saver = Saver(Path(folder), config, {}, model, optimizer)
        at_end = seconds(lambda: _save_improved(saver, record), options.rounds)
        position = Position(0, [[1.0, 1.0]] * (_IMAGES // 128))
        within = seconds(lambda: saver.save_within(position), options.rounds)
    saved = at_end + within * (epoch // (60 * config.save_minutes))
    print(
        f"## Cost of saving\n\nResNet-18 of width {options.width}, saauxbn, PGD-10, "
        f"{options.precision}; an epoch of CIFAR-10 extrapolated from {options.steps} steps of "
        f"{options.batch} images; medians of {options.rounds} saves; {machine(device)}.\n"
    )
    rows = [
        ("one epoch", f"{epoch:,.0f} s"),
        ('"best" and "last" after it', f"{at_end:.2f} s"),
        ('"last" within it', f"{within:.2f} s"),
        ("share of an epoch", f"{100 * saved / epoch:.2f} %"),
        ("length of an epoch for which the save after it takes 2 %", f"{at_end / 0.02:.0f} s"),
    ]
    print(tabulate(rows, headers=["", "time"], tablefmt="pipe"))


def _save_improved(saver: Saver, record: EpochRecord) -> None:
    """Saves an epoch that is the best so far."""
    saver.best = -1.0
    saver.save_epoch(record, "benchmark")


if __name__ == "__main__":
    main()

"""GPU benchmark: an AdvProp epoch against the release's method, PGD-20 against torchattacks.

    python -m benchmarks.gpu [--device cuda] [--width 64] [--images 10000]
        [--epoch_images 50000] [--batch 128] [--rounds 3]

Each row is built, run once to warm up (choosing kernels, compiling networks), then timed in every
round, waiting for the device before and after; "times the peer" compares medians. The time of an
epoch is extrapolated from about ten seconds of steps. Float32 convolutions of attacks and peers may
round to TF32, as torch does by default; this suite's verdicts never do.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import NamedTuple

import torch
from tabulate import tabulate
from torch import Tensor, nn
from torch.backends import cudnn

from benchmarks.training_step import RELEASE, stepper
from benchmarks.workload import images_and_network, machine, synchronize
from robustnorm import bind
from robustnorm.data.batches import steps_per_epoch
from robustnorm.evaluation.attack import attack_chunk
from robustnorm.evaluation.batching import images_at_once
from robustnorm.evaluation.chunks import CHUNK
from robustnorm.evaluation.search import Branch, Search, branches
from robustnorm.records.journal import Key
from robustnorm.system.allocator import keep_freed_memory
from robustnorm.system.device import resolve_device
from robustnorm.system.errors import UsageError

PEER = "torchattacks, batch 500"
STEPS = 20
# Seconds of training steps to measure in each round.
_SECONDS = 10


class Timing(NamedTuple):
    """Seconds of each round, peak memory in GiB (on a GPU), and the verdicts, if there are any."""

    name: str
    seconds: list[float]
    memory: float | None = None
    correct: Tensor | None = None


def measure(name: str, run: Callable[[], Tensor | None], options: argparse.Namespace) -> Timing:
    """Measures ``run`` after one warm-up call."""
    device = options.device
    correct, seconds, memory = run(), [], None
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    for _ in range(options.rounds):
        synchronize(device)
        start = time.perf_counter()
        correct = run()
        synchronize(device)
        seconds.append(time.perf_counter() - start)
        if device.type == "cuda":
            memory = torch.cuda.max_memory_allocated(device) / 2**30
    return Timing(name, seconds, memory, correct)


def free_earlier_rows(device: torch.device) -> None:
    """Frees the compiled code and the memory of earlier rows."""
    torch.compiler.reset()
    if device.type == "cuda":
        torch.cuda.empty_cache()


def epoch(name: str, norm: str, compile: bool, tf32: bool, options: argparse.Namespace) -> Timing:
    """Returns the row of a training epoch."""
    free_earlier_rows(options.device)
    steps = steps_per_epoch(options.epoch_images, options.batch)
    with cudnn.flags(enabled=cudnn.enabled, benchmark=False, allow_tf32=tf32):
        step = stepper(norm, options.device, options, compile=compile)
        step()
        step()  # once gradients exist, a network may be compiled again
        start = time.perf_counter()
        step()
        count = round(_SECONDS / (time.perf_counter() - start))
        count = min(max(count, 1), steps)

        def run() -> None:
            for _ in range(count):
                step()

        row = measure(name, run, options)
    return row._replace(seconds=[seconds * steps / count for seconds in row.seconds])


def training(options: argparse.Namespace) -> Iterator[Timing]:
    """Yields the rows of a training epoch, the peer's first."""
    for tf32 in (True, False):
        name = f"{RELEASE}, fp32, TF32 {'on' if tf32 else 'off'}"
        yield epoch(name, RELEASE, False, tf32, options)
    for norm in ("saauxbn", "bn"):
        for compile in (False, True):
            name = f"{norm}, bf16, {'compiled' if compile else 'eager'}"
            yield epoch(name, norm, compile, True, options)


def evaluation(options: argparse.Namespace) -> Iterator[Timing]:
    """Yields the rows of PGD-20 through one branch, the peer's first."""
    device, epsilon = options.device, options.epsilon
    # Trained, if the width allows it, so that some images withstand the attack.
    steps = 150 if options.width % 16 == 0 else 0
    images, labels, network = images_and_network(options.images, options.width, steps=steps)
    images, labels = images.to(device), labels.to(device)
    network.to(device).requires_grad_(False)
    search = Search(epsilon, epsilon / 4, (STEPS,))
    yield peer(images, labels, bind(network, "adv"), options)
    for precision in ("fp32", "bf16"):
        for compile in (False, True):
            free_earlier_rows(device)
            searched = branches(network, precision, compile=compile)
            branch = next(branch for branch in searched if branch.name == "adv")
            for chosen in (True, False):
                batch = "batch from free memory" if chosen else f"batch {CHUNK}"
                name = f"{precision} search, {'compiled' if compile else 'eager'}, {batch}"
                yield measure(name, partial(ours, branch, images, labels, search, chosen), options)


def ours(
    branch: Branch, images: Tensor, labels: Tensor, search: Search, from_free_memory: bool
) -> Tensor:
    """Returns this suite's verdicts."""
    ids = torch.arange(len(images))
    at_once = CHUNK
    if from_free_memory:
        at_once = images_at_once([branch], images, labels, ids, search)
    key = Key(f"pgd-{STEPS}", "final", branch.name, branch.name)
    parts = [
        attack_chunk([branch], images[rows], labels[rows], rows, search)[key].correct
        for rows in torch.split(ids, at_once)
    ]
    return torch.cat(parts)


def peer(images: Tensor, labels: Tensor, model: nn.Module, options: argparse.Namespace) -> Timing:
    """Returns the row of torchattacks; without seconds if it is not installed."""
    try:
        import torchattacks
    except ImportError:
        return Timing(f"{PEER}: not installed", [])
    free_earlier_rows(options.device)
    attack = torchattacks.PGD(model, eps=options.epsilon, alpha=options.epsilon / 4, steps=STEPS)

    def run() -> Tensor:
        correct = []
        for inputs, targets in zip(torch.split(images, 500), torch.split(labels, 500), strict=True):
            adv_images = attack(inputs, targets)
            with torch.no_grad():
                correct.append(model(adv_images).argmax(1) == targets)
        return torch.cat(correct)

    return measure(PEER, run, options)


def table(rows: Iterator[Timing]) -> str:
    """Measures the rows and returns their table; the first is the reference."""
    lines: list[list[str | float | None]] = []
    base = None
    for row in rows:
        print(f"{row.name}: {', '.join(f'{s:.2f} s' for s in row.seconds)}", file=sys.stderr)
        if not row.seconds:
            lines.append([row.name])
            continue
        median = statistics.median(row.seconds)
        if not lines:
            base = median
        lines.append(
            [
                row.name,
                median,
                f"{min(row.seconds):.2f} to {max(row.seconds):.2f}",
                None if base is None else base / median,
                row.memory,
                None if row.correct is None else 100 * row.correct.float().mean().item(),
                None if row.correct is None else len(row.correct),
            ]
        )
    headers = ["job", "seconds", "range", "times the peer", "peak GiB", "RA %", "n"]
    formats = ("", ".2f", "", ".2f", ".1f", ".2f", "")
    return tabulate(lines, headers=headers, tablefmt="pipe", floatfmt=formats)


def main() -> None:
    """Measures both tables and prints them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--epoch_images", type=int, default=50_000)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--epsilon", type=float, default=4 / 255)
    options = parser.parse_args()
    options.precision = "bf16"  # of training; the release's is float32
    try:
        options.device = resolve_device(options.device)
    except UsageError as error:
        sys.exit(str(error))
    keep_freed_memory()
    print(
        f"# Benchmarks on a GPU\n\nResNet-18 of width {options.width}, 32x32 images; "
        f"{options.rounds} rounds; {machine(options.device)}.\n\n## Training\n\nAn AdvProp epoch "
        f"of {options.epoch_images} images, PGD-10, batch {options.batch}, extrapolated from about "
        f"{_SECONDS} seconds of steps; without augmentation and validation. The peer is the "
        "release's method with TF32.\n"
    )
    print(table(training(options)))
    print(
        f"\n## Evaluation\n\nPGD-{STEPS} of {options.images} synthetic images through one branch "
        f"of SaAuxBN, epsilon {255 * options.epsilon:.2f}/255, verdicts in fp32; the peer is "
        f"{PEER}.\n"
    )
    print(table(evaluation(options)))


if __name__ == "__main__":
    main()

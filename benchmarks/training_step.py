"""What a norm layer costs: one AdvProp step with PGD-10 for each norm, the same network, one run.

    python -m benchmarks.training_step [--width 64] [--batch 64] [--rounds 3]

Rounds alternate between the rows, so that a slow minute of the machine hits all of them; a ratio is
the median over rounds of a row's time over BN's in the same round. The last row restates how the
authors' release computes SaAuxBN: the two affines one after the other, each sample with a copy of
its own, float32, channels first, running statistics moved by the attack.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence

import torch
from tabulate import tabulate
from torch import Tensor, nn

from benchmarks.workload import machine, peak_mebibytes
from robustnorm import resnet18
from robustnorm.allocator import keep_freed_memory
from robustnorm.campaign import PAPER_NORMS
from robustnorm.config import Config
from robustnorm.routing import RoutedLayer
from robustnorm.runs import resolve_device, to_channels_last
from robustnorm.training.losses import advprop_losses

RELEASE = "saauxbn, release's method"


class TwoStepSaAuxBN(RoutedLayer):
    """SaAuxBN as two affines after a BatchNorm2d without one, a row of each for every sample."""

    def __init__(self, num_features: int, branches: Sequence[str] = ("clean", "adv")) -> None:
        super().__init__(branches)
        self.norms = nn.ModuleList(nn.BatchNorm2d(num_features, affine=False) for _ in branches)
        # One row a branch, the shared one last.
        self.scale = nn.Embedding(len(self.branches) + 1, num_features)
        self.shift = nn.Embedding(len(self.branches) + 1, num_features)
        nn.init.normal_(self.scale.weight, 1, 0.02)
        nn.init.zeros_(self.shift.weight)

    def forward(self, input: Tensor) -> Tensor:
        branch = self.selection(len(input))
        output = self.norms[branch](input)
        for row in (len(self.branches), branch):
            rows = torch.full((len(input),), row, device=input.device)
            scale, shift = self.scale(rows), self.shift(rows)
            output = scale[:, :, None, None] * output + shift[:, :, None, None]
        return output


def stepper(
    row: str, device: torch.device, options: argparse.Namespace, *, compile: bool = False
) -> Callable[[], None]:
    """Returns a function that takes one step and waits for its end."""
    torch.manual_seed(0)
    released = row == RELEASE
    config = Config(
        precision="fp32" if released else options.precision,
        attack_norm_mode="batch-update" if released else "batch",
    )
    model = resnet18(TwoStepSaAuxBN if released else row, width=options.width).to(device)
    images = torch.rand(options.batch, 3, 32, 32, device=device)
    if not released:
        to_channels_last(model)
        images = images.contiguous(memory_format=torch.channels_last)
    labels = torch.randint(10, (options.batch,), device=device)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    generator = torch.Generator(device).manual_seed(0)
    forward = torch.compile(model) if compile else model

    def step() -> None:
        clean, adv = advprop_losses(forward, images, labels, config=config, generator=generator)
        optimizer.zero_grad()
        (clean + adv).backward()
        optimizer.step()
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    return step


def memory_of(row: str) -> int:
    """Returns the peak memory of two steps in a process of their own, in MiB."""
    words = [word for word in sys.argv[1:] if word]
    command = [sys.executable, "-m", "benchmarks.training_step", *words, "--memory", row]
    return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def main() -> None:
    """Times the rows in turn and prints a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--precision", choices=["fp32", "bf16"], default="bf16")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--memory", metavar="ROW", help="only print this row's peak memory in MiB")
    options = parser.parse_args()
    keep_freed_memory()
    device = resolve_device(options.device)
    if options.memory:
        step = stepper(options.memory, device, options)
        step()
        step()
        print(peak_mebibytes())
        return
    steps = {row: stepper(row, device, options) for row in (*PAPER_NORMS, RELEASE)}
    seconds: dict[str, list[float]] = {row: [] for row in steps}
    for step in steps.values():  # once unmeasured: memory and kernels are set up
        step()
    for _ in range(options.rounds):
        for row, step in steps.items():
            start = time.perf_counter()
            step()
            seconds[row].append(time.perf_counter() - start)
    rows = []
    for row, times in seconds.items():
        ratios = [mine / bn for mine, bn in zip(times, seconds["bn"], strict=True)]
        rows.append(
            (
                row,
                1000 * statistics.median(times) / options.batch,
                statistics.median(ratios),
                f"{min(ratios):.3f} to {max(ratios):.3f}",
                memory_of(row) if row in ("saauxbn", RELEASE) else None,
            )
        )
    print(
        f"## Training step\n\nOne AdvProp step, PGD-10, 32x32 images, ResNet-18 of width "
        f"{options.width}, batch {options.batch}, {options.precision} (the last row fp32); "
        f"{options.rounds} rounds; {machine(device)}.\n"
    )
    headers = ["norm", "ms per image", "time over BN's", "range over rounds", "peak MiB"]
    print(tabulate(rows, headers=headers, tablefmt="pipe", floatfmt=("", ".2f", ".3f", "", "")))


if __name__ == "__main__":
    main()

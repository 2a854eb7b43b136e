"""The cost of a norm layer: one AdvProp step with PGD-10 per norm, on the same network.

    python -m benchmarks.training_step [--width 64] [--batch 64] [--rounds 2]

Rounds alternate between the rows, so that a slow phase of the machine affects all of them; a ratio
is the median over rounds of a row's time divided by BN's in the same round. The last rows compute
SaAuxBN as the authors' release does: two affines in sequence with a copy per sample, float32,
channels first, running statistics updated by the attack; once with this suite's allocator settings
and once as installed, in a separate process.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence

import torch
from tabulate import tabulate
from torch import Tensor, nn

from benchmarks.workload import machine, peak_mebibytes, synchronize
from robustnorm import resnet18
from robustnorm.norms.routing import RoutedLayer
from robustnorm.runs.described import to_channels_last
from robustnorm.settings.config import Config
from robustnorm.settings.plan import PAPER_NORMS
from robustnorm.system.allocator import keep_freed_memory
from robustnorm.system.device import resolve_device
from robustnorm.training.losses import AdvProp

RELEASE = "saauxbn, release's method"
AS_INSTALLED = f"{RELEASE}, as installed"


class TwoStepSaAuxBN(RoutedLayer):
    """SaAuxBN as two affines after a BatchNorm2d without affine, with one row per sample."""

    def __init__(self, num_features: int, branches: Sequence[str] = ("clean", "adv")) -> None:
        super().__init__(branches)
        self.norms = nn.ModuleList(nn.BatchNorm2d(num_features, affine=False) for _ in branches)
        # One row per branch, the shared one last.
        self.scale = nn.Embedding(len(self.branches) + 1, num_features)
        self.shift = nn.Embedding(len(self.branches) + 1, num_features)
        nn.init.normal_(self.scale.weight, 1, 0.02)
        nn.init.zeros_(self.shift.weight)

    def forward(self, input: Tensor) -> Tensor:
        branch = self.selection(len(input))
        assert isinstance(branch, int)  # one route for the whole batch
        output: Tensor = self.norms[branch](input)
        for row in (len(self.branches), branch):
            rows = torch.full((len(input),), row, device=input.device)
            scale, shift = self.scale(rows), self.shift(rows)
            output = scale[:, :, None, None] * output + shift[:, :, None, None]
        return output


def stepper(
    row: str, device: torch.device, options: argparse.Namespace, *, compile: bool = False
) -> Callable[[], None]:
    """Returns a function that takes one step and waits for the device."""
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
    # torch.compile returns a module here; its type only says that it can be called.
    compiled: nn.Module = torch.compile(model) if compile else model  # type: ignore[assignment]
    advprop = AdvProp(compiled, config)

    def step() -> None:
        clean, adv = advprop.losses(images, labels, generator)
        assert adv is not None
        optimizer.zero_grad()
        torch.autograd.backward([clean, adv])
        optimizer.step()
        synchronize(device)

    return step


def in_own_process(row: str, *flags: str) -> dict[str, float]:
    """Returns seconds per step and peak memory in MiB, measured in a separate process."""
    words = [word for word in sys.argv[1:] if word]
    command = [sys.executable, "-m", "benchmarks.training_step", *words, "--row", row, *flags]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    measured: dict[str, float] = json.loads(done.stdout)
    return measured


def timed(step: Callable[[], None]) -> float:
    """Returns the seconds of a step."""
    start = time.perf_counter()
    step()
    return time.perf_counter() - start


def main() -> None:
    """Times the rows in turn and prints a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--precision", choices=["fp32", "bf16"], default="bf16")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--row", help="only measure this row, print seconds and memory as JSON")
    parser.add_argument("--as_installed", action="store_true", help="with torch's own allocator")
    options = parser.parse_args()
    if not options.as_installed:
        keep_freed_memory()
    device = resolve_device(options.device)
    if options.row:
        step = stepper(options.row, device, options)
        step()  # warm-up: memory and kernels
        print(json.dumps({"seconds": timed(step), "memory": peak_mebibytes()}))
        return
    steps = {row: stepper(row, device, options) for row in (*PAPER_NORMS, RELEASE)}
    seconds: dict[str, list[float]] = {row: [] for row in (*steps, AS_INSTALLED)}
    memory: dict[str, float] = {}
    for step in steps.values():
        step()
    for _ in range(options.rounds):
        for row, step in steps.items():
            seconds[row].append(timed(step))
        released = in_own_process(RELEASE, "--as_installed")
        seconds[AS_INSTALLED].append(released["seconds"])
        memory[AS_INSTALLED] = released["memory"]
    for row in ("saauxbn", RELEASE):
        memory[row] = in_own_process(row)["memory"]
    rows = []
    for row, times in seconds.items():
        over_bn, over_saauxbn = (
            [time / base for time, base in zip(times, seconds[other], strict=True)]
            for other in ("bn", "saauxbn")
        )
        rows.append(
            (
                row,
                1000 * statistics.median(times) / options.batch,
                statistics.median(over_bn),
                f"{min(over_bn):.3f} to {max(over_bn):.3f}",
                statistics.median(over_saauxbn),
                memory.get(row),
            )
        )
    print(
        f"## Training step\n\nOne AdvProp step, PGD-10, 32x32 images, ResNet-18 of width "
        f"{options.width}, batch {options.batch}, {options.precision} (the release's method fp32); "
        f"{options.rounds} rounds; {machine(device)}.\n"
    )
    headers = [
        "norm", "ms per image", "time over BN's", "range over rounds", "over SaAuxBN's", "peak MiB",
    ]  # fmt: skip
    formats = ("", ".2f", ".3f", "", ".3f", ".0f")
    print(tabulate(rows, headers=headers, tablefmt="pipe", floatfmt=formats))


if __name__ == "__main__":
    main()

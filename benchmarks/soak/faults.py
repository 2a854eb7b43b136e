"""The cost of checking for values that are not finite, as a share of a training step.

    python -m benchmarks.soak.faults [--width 64] [--batch 16] [--steps 3] [--rounds 50]

A step is made of the functions that ``train`` uses; the check is measured separately, many times on
the gradient of such a step, because its time is smaller than the noise of a step.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch

from benchmarks.workload import machine
from robustnorm import resnet18
from robustnorm.data.batches import Batch
from robustnorm.runs.described import to_channels_last
from robustnorm.settings.config import Config
from robustnorm.system.allocator import keep_freed_memory
from robustnorm.system.device import resolve_device
from robustnorm.training.advprop import step_generator
from robustnorm.training.finite import FiniteSteps, gradient_norm
from robustnorm.training.losses import AdvProp


def seconds(work: Callable[[], object], device: torch.device) -> float:
    """Returns the time of the work, including that of the device."""
    start = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start


def main() -> None:
    """Measures both alternately and prints a section."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=50)
    parser.add_argument("--device", default="auto")
    options = parser.parse_args()
    keep_freed_memory()
    device = resolve_device(options.device)
    config = Config(width=options.width, batch_size=options.batch)
    model = resnet18("saauxbn", width=options.width).to(device)
    to_channels_last(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    images = torch.rand(options.batch, 3, 32, 32, device=device)
    batch = Batch(
        images.contiguous(memory_format=torch.channels_last),
        torch.arange(options.batch, device=device) % 10,
        torch.arange(options.batch, device=device),
    )
    finite, advprop = FiniteSteps(model, optimizer, 0), AdvProp(model, config)

    def step() -> None:
        generator = step_generator(0, 0, device)
        losses = advprop.losses(batch.images, batch.labels, generator)
        advprop.backward(*losses, optimizer)
        optimizer.step()

    loss = torch.ones((), device=device)

    def check() -> None:
        finite.begin(0)
        finite.inspect(0, batch, loss, loss, gradient_norm(model))
        finite.end()

    step()
    check()
    steps, checks = [], []
    for _ in range(options.steps):
        steps.append(seconds(step, device))
        checks += [seconds(check, device) for _ in range(options.rounds)]
    step_time, check_time = statistics.median(steps), statistics.median(checks)
    print(
        "## Values that are not finite\n\n"
        f"ResNet-18 of width {options.width}, norm saauxbn, batch {options.batch}, "
        f"{config.train_steps} attack steps, fp32; {machine(device)}.\n\n"
        f"A training step takes {step_time:.2f} s; checking for values that are not finite takes "
        f"{1000 * check_time:.1f} ms: **{100 * check_time / step_time:.2f} %** (at most 0.5 %)."
    )


if __name__ == "__main__":
    main()

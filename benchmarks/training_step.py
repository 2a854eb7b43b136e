"""What a norm layer costs: one AdvProp step with it against one with BN, same network, one run.

    python benchmarks/training_step.py [--width 64] [--batch 64] [--rounds 7]

Rounds alternate between the norms, so that a slow minute of the machine hits all of them; the ratio
is the median over rounds of a norm's time over BN's in the same round.
"""

from __future__ import annotations

import argparse
import statistics
import time
from fractions import Fraction

import torch
from tabulate import tabulate

from robustnorm import resnet18
from robustnorm.config import Config
from robustnorm.norms import NORMS
from robustnorm.runs import device_name, resolve_device, to_channels_last
from robustnorm.training.advprop import advprop_losses


def stepper(norm: str, device: torch.device, options: argparse.Namespace):
    """Returns a function that takes one AdvProp step with PGD-10 and waits for its end."""
    torch.manual_seed(0)
    config = Config(norm=norm, precision=options.precision, epsilon=Fraction(8, 255))
    model = resnet18(norm, width=options.width).to(device)
    to_channels_last(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    images = torch.rand(options.batch, 3, 32, 32, device=device)
    images = images.contiguous(memory_format=torch.channels_last)
    labels = torch.randint(10, (options.batch,), device=device)
    generator = torch.Generator(device).manual_seed(0)

    def step() -> None:
        clean, adv = advprop_losses(model, images, labels, config=config, generator=generator)
        optimizer.zero_grad()
        (clean + adv).backward()
        optimizer.step()
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    return step


def main() -> None:
    """Times the norms in turn and prints a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--precision", choices=["fp32", "bf16"], default="bf16")
    parser.add_argument("--device", default="auto")
    options = parser.parse_args()
    device = resolve_device(options.device)
    steps = {norm: stepper(norm, device, options) for norm in NORMS}
    seconds: dict[str, list[float]] = {norm: [] for norm in NORMS}
    for step in steps.values():  # once unmeasured: memory and kernels are set up
        step()
    for _ in range(options.rounds):
        for norm, step in steps.items():
            start = time.perf_counter()
            step()
            seconds[norm].append(time.perf_counter() - start)
    rows = []
    for norm, times in seconds.items():
        ratios = [mine / bn for mine, bn in zip(times, seconds["bn"], strict=True)]
        rows.append(
            (
                norm,
                1000 * statistics.median(times) / options.batch,
                statistics.median(ratios),
                f"{min(ratios):.3f} to {max(ratios):.3f}",
            )
        )
    print(
        f"One AdvProp step, PGD-10, ResNet-18 of width {options.width}, batch {options.batch}, "
        f"{options.precision}; {options.rounds} rounds; {device_name(device)}, "
        f"torch {torch.__version__}\n"
    )
    headers = ["norm", "ms per image", "time over BN's", "range over rounds"]
    print(tabulate(rows, headers=headers, tablefmt="pipe", floatfmt=("", ".2f", ".3f", "")))


if __name__ == "__main__":
    main()

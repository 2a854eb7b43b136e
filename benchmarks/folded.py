"""A branch folded into ordinary layers and fused with its convolutions, against the routed network.

    python -m benchmarks.folded [--rounds 5]

Inference in evaluation mode on the same images; runs are interleaved, and the shortest of each
counts. Both must predict the same class for every image.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from functools import partial

import torch
from tabulate import tabulate
from torch import Tensor, nn

from benchmarks.workload import images_and_network, machine
from robustnorm import bind, fold
from robustnorm.runs.described import to_channels_last
from robustnorm.system.allocator import keep_freed_memory

# Width and batch: the paper's network and a narrow one, with many images at once and with one.
CASES = ((64, 64), (64, 1), (16, 64), (16, 1))
NORMS = ("bn", "saauxbn")


@torch.no_grad()
def seconds(runs: Sequence[Callable[[], object]], rounds: int) -> list[float]:
    """Returns the shortest time of each run; the runs are measured in turn."""

    def measure(run: Callable[[], object]) -> float:
        start = time.perf_counter()
        run()
        return time.perf_counter() - start

    for run in runs:
        run()
    return [min(t) for t in zip(*([*map(measure, runs)] for _ in range(rounds)), strict=True)]


def all_logits(network: nn.Module, images: Tensor, batch: int) -> Tensor:
    """Returns the logits of all images."""
    return torch.cat([network(part) for part in torch.split(images, batch)])


def convolutions(network: nn.Module, images: Tensor, batch: int) -> Callable[[], None]:
    """Returns a function that runs only the convolutions, as often as ``all_logits`` does."""
    calls: list[tuple[nn.Module, Tensor]] = []
    hooks = [
        module.register_forward_pre_hook(lambda m, inputs: calls.append((m, inputs[0].clone())))
        for module in network.modules()
        if isinstance(module, nn.Conv2d)
    ]
    with torch.no_grad():
        network(images[:batch])
    for hook in hooks:
        hook.remove()

    def run() -> None:
        for _ in range(len(images) // batch):
            for convolution, features in calls:
                convolution(features)

    return run


def main() -> None:
    """Measures each case and norm and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    keep_freed_memory()
    rows = []
    for width, batch in CASES:
        for norm in NORMS:
            count = 128 if batch > 1 else 16
            images, _, model = images_and_network(count, width, norm)
            images = images.contiguous(memory_format=torch.channels_last)
            networks = [bind(model, "adv"), fold(model, "adv"), fold(model, "adv", fuse=True)]
            for network in networks:
                to_channels_last(network)
            runs = [partial(all_logits, network, images, batch) for network in networks]
            times = seconds([*runs, convolutions(networks[2], images, batch)], options.rounds)
            with torch.no_grad():
                logits = [run() for run in runs]
            same = int((logits[0].argmax(1) == logits[2].argmax(1)).sum())
            rows.append(
                (
                    f"{norm}, width {width}, batch {batch}",
                    1000 * times[0] / count,
                    *(times[0] / time for time in times[1:]),
                    f"{same} of {count}",
                    (logits[0] - logits[2]).abs().max().item(),
                )
            )
    print(
        f"## Folded inference\n\nResNet-18, 32x32 images, evaluation mode, fp32, channels last; "
        f"the shortest of {options.rounds} runs; {machine()}. The convolutions alone take as long "
        "as the network would if everything else were free.\n"
    )
    headers = [
        "network", "routed, ms per image", "folded, times as fast", "folded and fused",
        "convolutions alone", "same prediction", "largest difference of a logit",
    ]  # fmt: skip
    formats = ("", ".2f", ".2f", ".2f", ".2f", "", ".1e")
    print(tabulate(rows, headers=headers, tablefmt="pipe", floatfmt=formats))


if __name__ == "__main__":
    main()

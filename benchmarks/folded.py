"""A branch folded into ordinary layers and fused with its convolutions, against the routed network.

    python -m benchmarks.folded [--width 64] [--batch 64] [--rounds 5]

Inference in evaluation mode on the same images, the runs interleaved, the shortest of each. The
two must predict the same class for every image.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import torch
from tabulate import tabulate
from torch import Tensor, nn

from benchmarks.workload import images_and_network, machine
from robustnorm import bind, fold
from robustnorm.allocator import keep_freed_memory
from robustnorm.runs import to_channels_last

NORMS = ("bn", "auxbn", "saauxbn")


@torch.no_grad()
def seconds(networks: list[nn.Module], images: Tensor, batch: int, rounds: int) -> list[float]:
    """Returns each network's shortest time for all images."""

    def run(network: Callable[[Tensor], Tensor]) -> float:
        start = time.perf_counter()
        for part in images.split(batch):
            network(part)
        return time.perf_counter() - start

    for network in networks:
        run(network)
    return [
        min(times) for times in zip(*([*map(run, networks)] for _ in range(rounds)), strict=True)
    ]


def main() -> None:
    """Measures each norm and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--images", type=int, default=256)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    keep_freed_memory()
    rows = []
    for norm in NORMS:
        images, _, model = images_and_network(options.images, options.width, norm)
        networks = [bind(model, "adv"), fold(model, "adv"), fold(model, "adv", fuse=True)]
        for network in networks:
            to_channels_last(network)
        images = images.contiguous(memory_format=torch.channels_last)
        routed, folded, fused = seconds(networks, images, options.batch, options.rounds)
        with torch.no_grad():
            logits = [network(images) for network in networks]
        same = int((logits[0].argmax(1) == logits[2].argmax(1)).sum())
        rows.append(
            (
                norm,
                1000 * routed / len(images),
                routed / folded,
                routed / fused,
                f"{same} of {len(images)}",
                (logits[0] - logits[2]).abs().max().item(),
            )
        )
    print(
        f"## Folded inference\n\nResNet-18 of width {options.width}, batch {options.batch}, 32x32 "
        f"images, evaluation mode, fp32; {machine()}.\n"
    )
    headers = [
        "norm", "routed, ms per image", "folded, times as fast", "folded and fused",
        "same prediction", "largest difference of a logit",
    ]  # fmt: skip
    formats = ("", ".2f", ".2f", ".2f", "", ".1e")
    print(tabulate(rows, headers=headers, tablefmt="pipe", floatfmt=formats))


if __name__ == "__main__":
    main()

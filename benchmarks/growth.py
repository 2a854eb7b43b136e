"""How time and memory of an evaluation grow with batch, width, steps, image size and images.

    python -m benchmarks.growth

Each point has its own process, to measure peak memory. The slope is that of a straight line through
the logarithms: 1 means proportional, 2 quadratic. "batch" is the number of images in one PGD step,
"images" the number in a whole evaluation.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time

import numpy as np
import torch
from tabulate import tabulate

from benchmarks.workload import images_and_network, machine, peak_mebibytes
from robustnorm import evaluate
from robustnorm.attacks import pgd
from robustnorm.evaluation.search import branches
from robustnorm.system.allocator import keep_freed_memory

DEFAULTS = {"batch": 64, "width": 16, "steps": 5, "size": 32}
POINTS = {
    "batch": (16, 32, 64, 128, 256),
    "width": (16, 32, 64, 128),
    "steps": (5, 10, 20, 40),
    "size": (16, 32, 64),
    "images": (100, 200, 400, 800),
}


def measure(point: dict[str, int]) -> None:
    """Prints seconds and peak memory of one point as JSON."""
    keep_freed_memory()
    torch.manual_seed(0)
    if "images" in point:
        images, labels, network = images_and_network(point["images"], DEFAULTS["width"], "bn")
        pixels = (images * 255).round().to(torch.uint8)
        start = time.perf_counter()
        evaluate(network, pixels, labels, steps=(DEFAULTS["steps"],))
    else:
        point = DEFAULTS | point
        _, _, network = images_and_network(64, point["width"], "bn")
        search = branches(network)[0].standin
        images = torch.rand(point["batch"], 3, point["size"], point["size"])
        images = images.contiguous(memory_format=torch.channels_last)
        labels = torch.zeros(point["batch"], dtype=torch.int64)

        def attack(steps: int) -> None:
            generator = torch.Generator().manual_seed(0)
            pgd(
                search, images, labels, epsilon=8 / 255, step_size=2 / 255, steps=steps,
                generator=generator,
            )  # fmt: skip

        attack(1)
        start = time.perf_counter()
        attack(point["steps"])
    seconds = time.perf_counter() - start
    print(json.dumps({"seconds": seconds, "memory": peak_mebibytes()}))


def slope(values: tuple[int, ...], measured: list[float]) -> float:
    """Returns the slope of a straight line through the logarithms."""
    return float(np.polyfit(np.log(values), np.log(measured), 1)[0])


def main() -> None:
    """Measures every point and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--point", type=json.loads, help="only measure this point")
    options = parser.parse_args()
    if options.point:
        measure(options.point)
        return
    rows = []
    for name, values in POINTS.items():
        results = []
        for value in values:
            command = [sys.executable, "-m", "benchmarks.growth"]
            command += ["--point", json.dumps({name: value})]
            done = subprocess.run(command, check=True, capture_output=True, text=True)
            results.append(json.loads(done.stdout))
        seconds = [result["seconds"] for result in results]
        memory = [result["memory"] for result in results]
        rows.append(
            (
                name,
                ", ".join(map(str, values)),
                ", ".join(f"{s:.2f}" for s in seconds),
                f"{slope(values, seconds):.2f}",
                ", ".join(map(str, memory)),
                f"{slope(values, memory):.2f}",
            )
        )
    print(
        f"## Growth\n\nPGD through a folded branch of ResNet-18, fp32; otherwise: width "
        f"{DEFAULTS['width']}, batch {DEFAULTS['batch']}, {DEFAULTS['steps']} steps, images of "
        f"{DEFAULTS['size']}x{DEFAULTS['size']}. {machine()}.\n"
    )
    headers = ["what grows", "values", "seconds", "slope", "peak MiB", "slope"]
    print(tabulate(rows, headers=headers, tablefmt="pipe", disable_numparse=True))


if __name__ == "__main__":
    main()

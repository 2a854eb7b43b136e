"""Runs RobustBench's clean_accuracy and benchmark on one branch of a run trained on CIFAR-10.

    pip install robustbench git+https://github.com/fra31/auto-attack
    python examples/robustbench_benchmark.py checkpoints/cifar10/saauxbn-seed0 --branch adv

RobustBench accepts the folded branch like any network: images in [0, 1] to logits.
``benchmark`` reads CIFAR-10 from ``--data_root`` (and downloads it there) and runs AutoAttack,
which takes hours for 10,000 images of a ResNet-18 without a GPU.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch

from robustnorm import fold
from robustnorm.runs import load_model
from robustnorm.system.device import resolve_device


def main(arguments: Sequence[str] | None = None) -> tuple[float, float]:
    """Prints and returns standard accuracy and accuracy under AutoAttack, fractions."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("--branch", default="adv")
    parser.add_argument("--checkpoint", default="best")
    parser.add_argument("--data_root", default="data")
    parser.add_argument("--limit", type=int, default=1000, help="test images")
    parser.add_argument("--batch_size", type=int, default=100)
    parser.add_argument("--device", default="auto")
    options = parser.parse_args(arguments)

    from robustbench import benchmark
    from robustbench.data import load_cifar10
    from robustbench.utils import clean_accuracy

    model, _ = load_model(options.run, options.checkpoint)
    network, device = fold(model, options.branch), resolve_device(options.device)
    images, labels = load_cifar10(options.limit, options.data_root)
    standard = clean_accuracy(network.to(device), images, labels, device=device)
    _, robust = benchmark(
        network,
        n_examples=options.limit,
        dataset="cifar10",
        threat_model="Linf",
        eps=8 / 255,
        data_dir=options.data_root,
        batch_size=options.batch_size,
        device=torch.device(device),
    )
    print(f"standard accuracy {100 * standard:.2f} %, under AutoAttack {100 * robust:.2f} %")
    return standard, robust


if __name__ == "__main__":
    main()

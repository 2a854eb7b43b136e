"""Attacks one branch of a trained run with torchattacks, foolbox and AutoAttack's own code.

    pip install "robustnorm[peers]"
    python examples/third_party_attack.py checkpoints/digits/saauxbn-seed0 --branch adv
    python examples/third_party_attack.py --small  # an untrained network and noise, seconds

A folded branch is an ordinary network, which every library accepts without a wrapper.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from robustnorm import fold, resnet18
from robustnorm.data import load_dataset
from robustnorm.data.dataset import subset
from robustnorm.runs import Run


def attack_all(
    network: nn.Module, images: Tensor, labels: Tensor, epsilon: float, steps: int
) -> dict[str, Tensor]:
    """Returns the adversarial images of each library."""
    import foolbox
    import pyautoattack
    import torchattacks

    pgd = torchattacks.PGD(network, eps=epsilon, alpha=epsilon / 4, steps=steps)
    peer = foolbox.PyTorchModel(network, bounds=(0, 1), device=images.device)
    lin_pgd = foolbox.attacks.LinfPGD(abs_stepsize=epsilon / 4, steps=steps)
    autoattack = pyautoattack.AutoAttack(
        network, norm="Linf", eps=epsilon, version="custom", attacks=["apgd-ce"], seed=0
    )
    autoattack.apgd.n_iter = steps  # 100 by default
    return {
        "torchattacks, PGD": pgd(images, labels),
        "foolbox, LinfPGD": lin_pgd(peer, images, labels, epsilons=epsilon)[1],
        "AutoAttack, APGD-CE": autoattack.run_standard_evaluation(images, labels)[0],
    }


def main(arguments: Sequence[str] | None = None) -> dict[str, float]:
    """Prints and returns the accuracy under each library's attack."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path, nargs="?")
    parser.add_argument("--branch", default="adv")
    parser.add_argument("--data_root", type=Path, default=Path("data"))
    parser.add_argument("--limit", type=int, default=200, help="test images")
    parser.add_argument("--small", action="store_true")
    options = parser.parse_args(arguments)
    if options.small:
        network = fold(resnet18("saauxbn", width=4).eval(), options.branch)
        images = torch.rand(8, 3, 8, 8)
        labels, epsilon = network(images).argmax(1), 8 / 255
    elif options.run is None:
        parser.error("give the folder of a run, such as checkpoints/digits/saauxbn-seed0")
    else:
        run = Run.open(options.run)
        config = run.config
        network, epsilon = fold(run.network(), options.branch), float(config.epsilon)
        _, test = subset(load_dataset(config.data, root=options.data_root).test, options.limit)
        images, labels = test.images / 255, test.labels
    accuracies = {}
    steps = 2 if options.small else 20
    for name, adv_images in attack_all(network, images, labels, epsilon, steps).items():
        with torch.no_grad():
            accuracies[name] = (network(adv_images).argmax(1) == labels).float().mean().item()
        print(f"{name}: {100 * accuracies[name]:.1f} % of {len(images)} images withstand it")
    return accuracies


if __name__ == "__main__":
    main()

"""A robust accuracy for your network like AutoAttack's, in a fraction of its time.

    python examples/autoattack_dropin.py --small  # an untrained network and noise, seconds
    python examples/autoattack_dropin.py --small --compare  # next to AutoAttack itself

Where your code calls ``AutoAttack(model, norm="Linf", eps=8 / 255).run_standard_evaluation(images,
labels)``, call ``worst_case`` with any callable from images in [0, 1] to logits. It needs no seed,
attacks whatever batch it is given and returns adversarial images of the same shape.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from attacks import autoattack, worst_case
from robustnorm.attacks.passes import Counted


def small_network(channels: int = 3, classes: int = 10) -> nn.Module:
    """Returns a network in place of yours."""
    return nn.Sequential(
        nn.Conv2d(channels, 16, 3, padding=1),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(4),
        nn.Flatten(),
        nn.Linear(256, classes),
    ).eval()


def robust_accuracy(
    network: nn.Module, images: Tensor, labels: Tensor, epsilon: float, batch_size: int = 100
) -> tuple[float, int]:
    """Returns the worst-case accuracy, a fraction, and the number of passes that it took."""
    counted, standing = Counted(network), 0
    for batch, classes in zip(images.split(batch_size), labels.split(batch_size), strict=True):
        adv_images = worst_case(counted, batch, classes, epsilon=epsilon)
        with torch.no_grad():
            standing += int((network(adv_images).argmax(1) == classes).sum())
    return standing / len(images), sum(counted.passes)


def main(arguments: Sequence[str] | None = None) -> dict[str, tuple[float, int]]:
    """Prints and returns robust accuracy and passes of each attack."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--small", action="store_true", required=True)
    parser.add_argument("--compare", action="store_true", help="also run AutoAttack")
    parser.add_argument("--epsilon", type=float, default=2 / 255)
    options = parser.parse_args(arguments)
    network, images = small_network(), torch.rand(24, 3, 16, 16)
    labels = network(images).argmax(1)
    found = {"worst_case": robust_accuracy(network, images, labels, options.epsilon)}
    if options.compare:
        counted = Counted(network)
        seed = torch.Generator().manual_seed(0)
        adv_images = autoattack(counted, images, labels, epsilon=options.epsilon, generator=seed)
        correct = network(adv_images).argmax(1) == labels
        found["autoattack"] = correct.float().mean().item(), sum(counted.passes)
    for name, (accuracy, passes) in found.items():
        print(f"{name}: {100 * accuracy:.1f} % of {len(images)} images withstand, {passes} passes")
    return found


if __name__ == "__main__":
    main()

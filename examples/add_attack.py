"""An attack of your own, in one file: PGD with momentum (MI-FGSM), against each branch.

    python examples/add_attack.py

It keeps the contract of ``robustnorm.attacks``. To have it by name, put the function into
robustnorm/attacks/, a line into ``ATTACKS``, and one into the tests of the contract.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from robustnorm import bind, resnet18
from robustnorm.attacks.contract import Model, check_inputs, unchanged
from robustnorm.attacks.threat_model import threat_model as find_threat_model


def momentum_pgd(
    model: Model,
    images: Tensor,
    labels: Tensor,
    *,
    epsilon: float,
    steps: int = 10,
    decay: float = 1.0,
    threat_model: str = "linf",
    generator: torch.Generator | None = None,
) -> Tensor:
    """Climbs the cross-entropy along a running sum of gradients, each scaled to mean size 1.

    Args:
        model: Images to logits.
        images: (N, C, H, W), floating point in [0, 1].
        labels: int64 (N,).
        epsilon: Radius of the ball; a step is epsilon / steps.
        steps: Gradient steps.
        decay: Factor of the sum before each new gradient is added.
        threat_model: ``"linf"`` or ``"l2"``.
        generator: Not used; every attack takes one.

    Returns:
        Adversarial images, detached, of the images' shape and dtype.

    Raises:
        ValueError: On inputs out of range.

    References:
        Dong et al., Boosting Adversarial Attacks with Momentum, CVPR 2018, arXiv:1710.06081.
    """
    check_inputs(images, labels, epsilon)
    ball = find_threat_model(threat_model)
    images = images.detach()
    adv_images, total = images.clone(), torch.zeros_like(images)
    with unchanged(model), torch.enable_grad():
        for _ in range(steps):
            adv_images.requires_grad_()
            loss = F.cross_entropy(model(adv_images), labels, reduction="sum")
            (gradient,) = torch.autograd.grad(loss, adv_images)
            size = gradient.abs().flatten(1).mean(1).clamp_min(1e-12)
            total = decay * total + gradient / size.view(-1, 1, 1, 1)
            moved = adv_images.detach() + ball.ascend(total, epsilon / steps)
            adv_images = ball.project(moved, images, epsilon)
    return adv_images


def main() -> None:
    """Attacks both branches of an untrained network and prints how many predictions change."""
    torch.manual_seed(0)
    model = resnet18("saauxbn", width=8).eval()
    images = torch.rand(16, 3, 16, 16)
    for branch in ("clean", "adv"):
        network = bind(model, branch)
        labels = network(images).argmax(1)
        adv_images = momentum_pgd(network, images, labels, epsilon=8 / 255)
        changed = (network(adv_images).argmax(1) != labels).sum()
        print(f"{branch}: {changed} of {len(images)} predictions change")


if __name__ == "__main__":
    main()

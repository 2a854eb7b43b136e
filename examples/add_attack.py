"""Adding an attack in one file: PGD with momentum (MI-FGSM), against each branch.

    python examples/add_attack.py

It follows the contract of ``robustnorm.attacks``. One line registers its name for ``evaluate`` and
``robustnorm eval --attacks``. To add it to the package, put the function into robustnorm/attacks/,
the line into ``ATTACKS``, and one into the tests of the contract.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from robustnorm import bind, evaluate, resnet18
from robustnorm.attacks import ATTACKS
from robustnorm.attacks.contract import traits
from robustnorm.attacks.inputs import admit
from robustnorm.attacks.logits import Model
from robustnorm.attacks.threat_model import threat_model as find_threat_model
from robustnorm.records.record import Verdict


@traits(per_image=True)
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
    """Ascends the cross-entropy along a running sum of gradients, each scaled to mean size 1.

    Args:
        model: Images to logits.
        images: (N, C, H, W), floating point in [0, 1].
        labels: int64 (N,).
        epsilon: Radius of the ball; a step is epsilon / steps.
        steps: Gradient steps.
        decay: Factor applied to the sum before each new gradient is added.
        threat_model: ``"linf"`` or ``"l2"``.
        generator: Unused, since no random numbers are drawn; part of the contract.

    Returns:
        Adversarial images, detached, of the images' shape and dtype.

    Raises:
        ValueError: On inputs out of range.

    References:
        Dong et al., Boosting Adversarial Attacks with Momentum, CVPR 2018, arXiv:1710.06081.
    """
    given = admit(model, images, labels, epsilon, threat_model)
    model, images, labels = given.model, given.images, given.labels
    ball = find_threat_model(threat_model)
    adv_images, total = images.clone(), torch.zeros_like(images)
    with given.attacking(), torch.enable_grad():
        for _ in range(steps):
            adv_images.requires_grad_()
            loss = F.cross_entropy(model(adv_images), labels, reduction="sum")
            (gradient,) = torch.autograd.grad(loss, adv_images)
            size = gradient.abs().flatten(1).mean(1).clamp_min(1e-12)
            total = decay * total + gradient / size.view(-1, 1, 1, 1)
            moved = adv_images.detach() + ball.ascend(total, epsilon / steps)
            adv_images = ball.project(moved, images, epsilon)
    return given.result(adv_images)


ATTACKS["momentum"] = momentum_pgd


def main() -> list[Verdict]:
    """Evaluates an untrained network under the attack, prints and returns the accuracies."""
    torch.manual_seed(0)
    model = resnet18("saauxbn", width=8).eval()
    images = torch.rand(16, 3, 16, 16)
    with torch.no_grad():
        labels = bind(model, "adv")(images).argmax(1)
    verdicts = evaluate(model, images, labels, steps=(2,), attacks=["momentum"])
    for verdict in verdicts:
        print(verdict.attack, verdict.rule, verdict.score_branch, f"{100 * verdict.accuracy:.1f} %")
    return verdicts


if __name__ == "__main__":
    main()

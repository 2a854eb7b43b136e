"""The worst case over a portfolio of gradient attacks, run on the images that still withstand."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from robustnorm.attacks.asked import InputError, Model
from robustnorm.attacks.contract import traits
from robustnorm.attacks.inputs import admit
from robustnorm.attacks.threat_model import threat_model as find_threat_model

# Keeps the scaling finite for a gradient of zero.
_TINY = 1e-30


@traits(per_image=True)
def worst_case(
    model: Model,
    images: Tensor,
    labels: Tensor,
    *,
    epsilon: float,
    threat_model: str = "linf",
    generator: torch.Generator | None = None,
    steps: int = 20,
    targets: int = 5,
    momentum: float = 0.75,
) -> Tensor:
    """Attacks each image with a portfolio of attacks until one breaks it.

    First PGD ascends the label's cross-entropy along a running sum of gradients, each scaled to
    mean size 1. Then, without the running sum, it ascends the difference between a wrong class's
    logit and the label's, for the most likely wrong class, the next one, and so on. That difference
    is invariant to the scale of the logits. Every run starts at the image, and its step size falls
    linearly from epsilon. An image leaves at its first misclassified iterate, so most of the work
    is spent on those that withstand. No random numbers are drawn.

    Args:
        model: Images to logits; its mode and branch are the caller's choice.
        images: (N, C, H, W), floating point in [0, 1].
        labels: int64 (N,).
        epsilon: Radius of the ball on the [0, 1] scale; 0 returns the images.
        threat_model: ``"linf"`` or ``"l2"``.
        generator: Ignored; part of the contract.
        steps: Gradient steps per run.
        targets: Number of wrong classes to target, or all if there are fewer.
        momentum: Factor of the first run's running sum before each gradient is added.

    Returns:
        Adversarial images, detached, of the images' shape and dtype: misclassified where a run
        succeeded, elsewhere the iterate at which a wrong class came closest to the label. Images
        that were misclassified from the start are returned unchanged.

    Raises:
        ValueError: On inputs out of range, or fewer than one step or target.

    References:
        Croce & Hein, ICML 2020, arXiv:2003.01690, for targets one after the other on survivors;
        Dong et al., CVPR 2018, arXiv:1710.06081, for the running sum; Carlini & Wagner, 2017,
        arXiv:1608.04644, for the difference of logits.

    Examples:
        >>> model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 3))
        >>> images, labels = torch.rand(4, 3, 2, 2), torch.tensor([0, 1, 2, 0])
        >>> adv_images = worst_case(model, images, labels, epsilon=8 / 255)
        >>> bool(((adv_images - images).abs() <= 8 / 255 + 1e-6).all())
        True
    """
    given = admit(model, images, labels, epsilon, threat_model)
    if steps < 1 or targets < 1:
        raise InputError(f"steps and targets must be at least 1, got {steps} and {targets}")
    ball = find_threat_model(threat_model)
    model, images, labels, epsilon = given.model, given.images, given.labels, given.epsilon
    with given.attacking():
        best = images.clone()
        with torch.no_grad():
            logits = _at_least_float32(model(images))
        standing, lead = logits.argmax(1) == labels, _lead(logits, labels)
        wrong = logits.scatter(1, labels[:, None], -torch.inf)
        likeliest = wrong.topk(min(targets, logits.shape[1] - 1), dim=1).indices
        for aims in (None, *likeliest.unbind(1)):
            rows = standing.nonzero().flatten()
            adv_images = images[rows]
            total = torch.zeros_like(adv_images)
            for step in range(steps + 1):
                if not len(rows):
                    break
                aim = None if aims is None else aims[rows]
                logits, gradient = _look(model, adv_images, labels[rows], aim, last=step == steps)
                broken, now = logits.argmax(1) != labels[rows], _lead(logits, labels[rows])
                better = broken | (now > lead[rows])
                best[rows[better]], lead[rows[better]] = adv_images[better], now[better]
                standing[rows[broken]] = False
                kept = (values[~broken] for values in (rows, adv_images, total, gradient))
                rows, adv_images, total, gradient = kept
                if step < steps:
                    total = (momentum if aims is None else 0) * total + gradient
                    moved = adv_images + ball.ascend(total, epsilon * (1 - step / steps))
                    adv_images = ball.project(moved, images[rows], epsilon)
    return given.result(best)


def _look(
    model: Model, adv_images: Tensor, labels: Tensor, aims: Tensor | None, *, last: bool
) -> tuple[Tensor, Tensor]:
    """Returns the logits of images and the gradient of the loss, scaled to mean size 1.

    At a run's last iterates the gradient is not computed: it is 0.
    """
    if last:
        with torch.no_grad():
            return _at_least_float32(model(adv_images)), torch.zeros_like(adv_images)
    with torch.enable_grad():
        given = adv_images.detach().requires_grad_()
        logits = _at_least_float32(model(given))
        if aims is None:
            climbed = F.cross_entropy(logits, labels, reduction="sum")
        else:
            towards = logits.gather(1, aims[:, None])
            climbed = (towards - logits.gather(1, labels[:, None])).sum()
        (gradient,) = torch.autograd.grad(climbed, given)
    gradient = gradient.nan_to_num(0, 0, 0)
    size = gradient.abs().flatten(1).mean(1).clamp_min(_TINY)
    return logits.detach(), gradient / size.view(-1, *[1] * (gradient.dim() - 1))


def _lead(logits: Tensor, labels: Tensor) -> Tensor:
    """Returns the largest wrong logit minus the label's, (N,)."""
    own = labels[:, None]
    return logits.scatter(1, own, -torch.inf).amax(1) - logits.gather(1, own)[:, 0]


def _at_least_float32(logits: Tensor) -> Tensor:
    return logits.to(torch.promote_types(logits.dtype, torch.float32))

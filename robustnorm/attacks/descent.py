"""Projected gradient descent and its single-step variant, FGSM."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from robustnorm.attacks.contract import require_generator, traits
from robustnorm.attacks.inputs import AttackInputs, admit
from robustnorm.attacks.limits import check_size
from robustnorm.attacks.logits import InputError, Model
from robustnorm.attacks.losses import find_loss
from robustnorm.attacks.threat_model import threat_model as find_threat_model


def pgd(
    model: Model,
    images: Tensor,
    labels: Tensor,
    *,
    epsilon: float,
    step_size: float,
    steps: int,
    threat_model: str = "linf",
    loss: str = "ce",
    targets: Tensor | None = None,
    restarts: int = 1,
    random_start: bool = True,
    generator: torch.Generator | None = None,
    start: Tensor | None = None,
    on_iterate: Callable[[int, Tensor, Tensor], None] | None = None,
) -> Tensor:
    """Ascends a loss, by default the labels' cross-entropy, within the ball around each image.

    Each step moves by ``step_size`` along the sign (Linf) or the direction (L2) of the gradient
    with respect to the images, then projects onto the ball and onto [0, 1].

    Args:
        model: Images to logits; its mode and branch are the caller's choice.
        images: (N, C, H, W), floating point in [0, 1].
        labels: int64 (N,).
        epsilon: Radius of the ball on the [0, 1] scale.
        step_size: Size of a step on that scale.
        steps: Gradient steps.
        threat_model: ``"linf"`` or ``"l2"``.
        loss: The loss: ``"ce"``, ``"margin"`` (Carlini and Wagner) or ``"dlr"`` (Croce and Hein);
            see ``robustnorm.attacks.losses.find_loss``.
        targets: Target classes, int64 (N,); by default any class except the label.
        restarts: Number of random starts. An image keeps its first misclassified result (with
            targets: the first classified as its target), or else the one with the highest loss.
            Several cost one more forward pass each.
        random_start: Start at a point drawn uniformly from the ball instead of the image.
        generator: Draws the random start, which requires it.
        start: Images in the ball to start from instead of a random start.
        on_iterate: Called with (step, adv_images, logits) for each iterate from 0, the start, to
            ``steps``, the result; with restarts, for each in turn. Only the last iterate costs a
            forward pass of its own.

    Returns:
        Adversarial images, detached, of the images' shape and dtype.

    Raises:
        ValueError: On inputs out of range, a random start without a generator, an unknown loss,
            or one that needs more classes.

    References:
        Madry et al., Towards Deep Learning Models Resistant to Adversarial Attacks, ICLR 2018,
        arXiv:1706.06083.

    Examples:
        >>> model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 2))
        >>> images, labels = torch.rand(4, 3, 2, 2), torch.tensor([0, 1, 0, 1])
        >>> adv_images = pgd(
        ...     model, images, labels, epsilon=8 / 255, step_size=2 / 255, steps=10,
        ...     generator=torch.Generator().manual_seed(0),
        ... )
        >>> bool(((adv_images - images).abs() <= 8 / 255 + 1e-6).all())
        True
    """
    given = admit(model, images, labels, epsilon, threat_model, targets)
    try:
        find_loss(loss)
        check_size("step_size", step_size, threat_model, most=math.inf)
    except ValueError as error:
        raise InputError(str(error)) from None
    if not isinstance(steps, int) or steps < 0:
        raise InputError(f"steps must be a whole number of at least 0, got {steps}")
    if restarts < 1 or (restarts > 1 and (start is not None or not random_start)):
        raise InputError(
            f"restarts must be at least 1, and more than 1 need a random start, got {restarts}"
            f" with random_start={random_start} and {'no' if start is None else 'a given'} start"
        )
    ball = find_threat_model(threat_model)
    if start is not None:
        start = start.detach().to(given.images.device)
        if (
            start.shape != images.shape
            or not ball.contains(start.to(given.images.dtype), given.images, given.epsilon).all()
        ):
            raise InputError(
                f"start must have the images' shape {tuple(images.shape)} and lie in the ball of "
                f"radius {epsilon} around them and in [0, 1]"
            )
    elif random_start:
        generator = require_generator(generator, ", or random_start=False, or start=")

    def ascend() -> Tensor:
        if start is not None:
            begin = start.to(given.images.dtype, copy=True)  # not an inference tensor
        elif random_start and generator is not None:
            begin = ball.random_start(given.images, given.epsilon, generator)
        else:
            begin = given.images
        adv_images = begin
        for step in range(steps):
            following, logits = pgd_step(
                given.model,
                adv_images,
                given.images,
                given.labels,
                epsilon=given.epsilon,
                step_size=float(step_size),
                threat_model=threat_model,
                loss=loss,
                targets=given.targets,
            )
            if on_iterate is not None:
                on_iterate(step, adv_images, logits)
            adv_images = following
        if on_iterate is not None:
            with torch.no_grad():
                on_iterate(steps, adv_images, given.model(adv_images))
        return adv_images.clone() if adv_images is begin else adv_images

    with given.attacking():
        if restarts == 1:
            return given.result(ascend())
        return given.result(_best_of((ascend() for _ in range(restarts)), given, loss))


def pgd_step(
    model: Model,
    adv_images: Tensor,
    images: Tensor,
    labels: Tensor,
    *,
    epsilon: float,
    step_size: float,
    threat_model: str = "linf",
    loss: str = "ce",
    targets: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Returns the iterate that follows ``adv_images``, and the logits of ``adv_images``, detached.

    One step of ``pgd`` with the same arguments, for other iterative attacks. It neither checks its
    inputs nor restores the model's buffers.
    """
    ball = find_threat_model(threat_model)
    with torch.enable_grad():
        adv_images = adv_images.detach().requires_grad_()
        logits = model(adv_images)
        wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
        losses = find_loss(loss)(wide, labels, targets)
        # Summed, so that an image's gradient does not depend on the size of its batch.
        (gradient,) = torch.autograd.grad(losses.sum(), adv_images)
    moved = adv_images.detach() + ball.ascend(gradient, step_size)
    return ball.project(moved, images, epsilon), logits.detach()


@traits(per_image=True)
def fgsm(
    model: Model,
    images: Tensor,
    labels: Tensor,
    *,
    epsilon: float,
    threat_model: str = "linf",
    generator: torch.Generator | None = None,
) -> Tensor:
    """Takes one gradient step of size epsilon from the images.

    Args:
        model: Images to logits.
        images: (N, C, H, W), floating point in [0, 1].
        labels: int64 (N,).
        epsilon: Radius of the ball and size of the step; 0 returns the images.
        threat_model: ``"linf"`` or ``"l2"``.
        generator: Ignored; part of the contract.

    Returns:
        Adversarial images, detached, of the images' shape and dtype.

    Raises:
        ValueError: On inputs out of range.

    References:
        Goodfellow et al., Explaining and Harnessing Adversarial Examples, arXiv:1412.6572.

    Examples:
        >>> model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 2))
        >>> images, labels = torch.full((4, 3, 2, 2), 0.5), torch.tensor([0, 1, 0, 1])
        >>> adv_images = fgsm(model, images, labels, epsilon=0.25)
        >>> (adv_images - images).abs().unique()
        tensor([0.2500])
    """
    return pgd(
        model,
        images,
        labels,
        epsilon=epsilon,
        step_size=epsilon or 1.0,  # with epsilon 0 any step is projected back
        steps=1,
        threat_model=threat_model,
        random_start=False,
    )


@torch.no_grad()
def _best_of(results: Iterable[Tensor], given: AttackInputs, loss: str) -> Tensor:
    """Returns each image's first result that succeeds, or else the one with the highest loss."""
    labels, targets, best = given.labels, given.targets, given.images
    reached = torch.zeros_like(labels, dtype=torch.bool)
    highest = torch.full(labels.shape, -torch.inf, device=labels.device)
    for adv_images in results:
        logits = given.model(adv_images)
        seen, loss_now = logits.argmax(1), find_loss(loss)(logits, labels, targets)
        reached_now = seen != labels if targets is None else seen == targets
        better = ~reached & (reached_now | (loss_now > highest))
        best = torch.where(better.view(-1, *[1] * (best.dim() - 1)), adv_images, best)
        highest, reached = torch.where(better, loss_now, highest), reached | reached_now
    return best

"""Any attack of the torchattacks package, by the name of its class."""

from __future__ import annotations

import difflib
import inspect
from importlib import import_module
from typing import Any

import torch
from torch import Tensor

from robustnorm.attacks.contract import Shell, require_generator, seeded, traits
from robustnorm.attacks.inputs import admit
from robustnorm.attacks.logits import InputError, Model
from robustnorm.attacks.threat_model import threat_model as find_threat_model

# Accepted excess over the radius: the library's float32 norms of large images are less exact.
_EXCESS = 1e-5


@traits(check=lambda name, **_: find_class(name))
def torchattack(
    model: Model,
    images: Tensor,
    labels: Tensor,
    *,
    name: str,
    epsilon: float,
    threat_model: str = "linf",
    generator: torch.Generator | None = None,
    **options: Any,
) -> Tensor:
    """Runs a torchattacks class under this package's contract.

    A class with a parameter ``eps`` gets ``epsilon``. A class without a radius (CW, DeepFool, ...)
    searches for the smallest perturbation: images whose result lies outside the ball are returned
    unchanged.

    Args:
        model: Images to logits; its mode and branch are the caller's choice.
        images: (N, C, H, W), floating point in [0, 1].
        labels: int64 (N,).
        name: Name of the class, such as "PGD", "APGD", "CW" or "Square".
        epsilon: Radius of the ball on the [0, 1] scale.
        threat_model: The class's threat model, ``"linf"`` or ``"l2"``.
        generator: Draws the global seeds that the library uses; required.
        **options: Arguments of the class.

    Returns:
        Adversarial images, detached, of the images' shape and dtype.

    Raises:
        ImportError: When torchattacks is not installed.
        ValueError: On an unknown name, inputs out of range, no generator, or a result outside the
            ball (the class then uses another threat model).

    References:
        Kim, Torchattacks: A PyTorch Repository for Adversarial Attacks, arXiv:2010.01950.

    Examples:
        >>> model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 2))
        >>> images, labels = torch.rand(4, 3, 2, 2), torch.tensor([0, 1, 0, 1])
        >>> adv_images = torchattack(
        ...     model, images, labels, name="PGD", epsilon=8 / 255,
        ...     generator=torch.Generator().manual_seed(0),
        ... )
        >>> bool(((adv_images - images).abs() <= 8 / 255 + 1e-6).all())
        True
    """
    given = admit(model, images, labels, epsilon, threat_model)
    ball = find_threat_model(threat_model)
    generator = require_generator(generator)
    attack_class = find_class(name)
    images = given.images.float().contiguous()  # the library calls view
    parameters = inspect.signature(attack_class).parameters
    bounded = "eps" in parameters
    if bounded:
        options["eps"] = given.epsilon
    with given.attacking(), seeded(generator, images.device), torch.enable_grad():
        if "n_classes" in parameters and len(images):
            # Its targeted attacks target n_classes - 1 wrong classes, by default 9.
            with torch.no_grad():
                options.setdefault("n_classes", min(10, given.model(images[:2]).shape[1]))
        attack = attack_class(Shell(given.model, images.device), **options)
        try:
            adv_images: Tensor = attack(images, given.labels).detach().to(given.images.dtype)
        except IndexError as error:
            raise InputError(
                f"torchattacks.{name} fails on this network ({error}): its loss may need more "
                "classes; choose another attack, such as APGD or Square"
            ) from error
    # The result is projected below: its distance from the ball tells only rounding from another
    # threat model.
    inside = ball.contains(adv_images, given.images, given.epsilon, _EXCESS)
    if bounded and not inside.all():
        farthest = ball.distance(adv_images, given.images).max().item()
        raise InputError(
            f"torchattacks.{name} left the {threat_model} ball of radius {epsilon:.6g} (distance "
            f"{farthest:.6g}); give the threat model that it works in, threat_model='linf' or 'l2'"
        )
    chosen = inside.view(-1, *[1] * (images.dim() - 1))
    within = ball.project(adv_images, given.images, given.epsilon)
    return given.result(torch.where(chosen, within, given.images))


def find_class(name: str) -> Any:
    """Returns the torchattacks class of that name.

    Raises:
        ImportError: When torchattacks is not installed.
        ValueError: On an unknown name; the message suggests the nearest.
    """
    try:
        library = import_module("torchattacks")
    except ImportError as error:
        raise ImportError(
            "torchattacks is not installed: pip install torchattacks, or with all peers "
            'pip install "robustnorm[peers]"'
        ) from error
    if name not in library.__all__:
        nearest = difflib.get_close_matches(name.upper(), library.__all__, n=1)
        hint = f"; did you mean '{nearest[0]}'?" if nearest else ""
        raise ValueError(f"unknown attack 'torchattacks.{name}'{hint} See torchattacks.__all__.")
    return getattr(library, name)

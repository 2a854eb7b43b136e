"""Attacks on classifiers that share one contract.

``attack(model, images, labels, *, epsilon, threat_model="linf", generator=None, ...)`` returns
``adv_images``. ``model`` is any callable, images to logits; images are floating point in [0, 1],
(N, C, H, W); labels are int64 (N,). The result has the images' shape, dtype and device, is
detached, and lies in the ball of radius ``epsilon`` around them and in [0, 1].

An attack changes nothing: no train or eval mode, route, buffer, gradient, global random state or
input. Mode and branch are the caller's choice. All randomness comes from ``generator``; a random
attack without one raises a ValueError, since there is no default seed. A network in train mode is
attacked with batch statistics, and its running statistics are restored; to update them, pass a
function, such as ``lambda images: model(images)``.

A new attack takes one file, one line in ``ATTACKS``, and one in the tests of the contract. Its
name then works in ``evaluate(attacks=...)`` and ``--attacks``. Its properties are declared with
``robustnorm.attacks.contract.traits``.

Examples:
    >>> import torch
    >>> model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 2))
    >>> images, labels = torch.rand(4, 3, 2, 2), torch.tensor([0, 1, 0, 1])
    >>> ATTACKS["fgsm"](model, images, labels, epsilon=8 / 255).shape
    torch.Size([4, 3, 2, 2])
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from robustnorm.system.registry import Registry

if TYPE_CHECKING:
    from robustnorm.attacks.descent import fgsm, pgd
    from robustnorm.attacks.pyautoattack import autoattack
    from robustnorm.attacks.torchattacks import torchattack
    from robustnorm.attacks.worst import worst_case

ATTACKS = Registry(
    "attack",
    {
        "pgd": "robustnorm.attacks.descent:pgd",
        "fgsm": "robustnorm.attacks.descent:fgsm",
        "autoattack": "robustnorm.attacks.pyautoattack:autoattack",
        "torchattack": "robustnorm.attacks.torchattacks:torchattack",
        "worst": "robustnorm.attacks.worst:worst_case",
    },
)

__all__ = ["ATTACKS", "autoattack", "fgsm", "pgd", "torchattack", "worst_case"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return ATTACKS["worst" if name == "worst_case" else name]

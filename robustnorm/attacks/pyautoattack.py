"""AutoAttack, run by its authors' code."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from importlib import import_module
from typing import Any

import torch
from torch import Tensor

from robustnorm.attacks.contract import Shell, require_generator, seeded, traits
from robustnorm.attacks.inputs import AttackInputs, admit
from robustnorm.attacks.logits import InputError, Model
from robustnorm.system.registry import unknown

_NORMS = {"linf": "Linf", "l2": "L2"}
# Number of wrong classes that the authors' targeted attacks target in turn, or all if fewer.
_TARGETS = 9
# Fewest classes that the losses of a version or an attack compare.
_VERSIONS = {"standard": 4, "plus": 4, "rand": 3}
_ATTACKS = {"apgd-ce": 2, "apgd-dlr": 3, "apgd-t": 4, "fab": 2, "fab-t": 2, "square": 2}


@traits(check=lambda **_: installed())
def autoattack(
    model: Model,
    images: Tensor,
    labels: Tensor,
    *,
    epsilon: float,
    threat_model: str = "linf",
    generator: torch.Generator | None = None,
    version: str = "standard",
    attacks_to_run: Sequence[str] | None = None,
    batch_size: int = 250,
) -> Tensor:
    """Runs AutoAttack's ensemble; images that withstand it are returned as they are.

    Args:
        model: Images to logits, deterministic; its mode and branch are the caller's choice.
        images: (N, C, H, W), floating point in [0, 1].
        labels: int64 (N,).
        epsilon: Radius of the ball on the [0, 1] scale.
        threat_model: ``"linf"`` or ``"l2"``.
        generator: Draws the seed for the package; required.
        version: ``"standard"`` (apgd-ce, apgd-t, fab-t, square), ``"plus"`` or ``"rand"``.
        attacks_to_run: Names of individual attacks to run instead.
        batch_size: Images attacked at once.

    Returns:
        Adversarial images, detached, of the images' shape and dtype.

    Raises:
        ImportError: When neither pyautoattack nor autoattack is installed.
        ValueError: On inputs out of range, an unknown threat model, version or attack, no
            generator, or fewer classes than the losses need: apgd-t 4, apgd-dlr 3.

    References:
        Croce & Hein, Reliable Evaluation of Adversarial Robustness with an Ensemble of Diverse
        Parameter-free Attacks, ICML 2020, arXiv:2003.01690.

    Examples:
        >>> model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 3))
        >>> images, labels = torch.rand(4, 3, 2, 2), torch.tensor([0, 1, 2, 0])
        >>> adv_images = autoattack(
        ...     model, images, labels, epsilon=8 / 255, attacks_to_run=["apgd-ce"],
        ...     generator=torch.Generator().manual_seed(0),
        ... )
        >>> bool(((adv_images - images).abs() <= 8 / 255 + 1e-6).all())
        True
    """
    given = admit(model, images, labels, epsilon, threat_model)
    if threat_model not in _NORMS:
        raise InputError(
            f"AutoAttack has the threat models {', '.join(_NORMS)}, got '{threat_model}'"
        )
    if version not in _VERSIONS:
        raise InputError(unknown("version", version, [*_VERSIONS]))
    for name in attacks_to_run or ():
        if name not in _ATTACKS:
            raise InputError(unknown("attack of AutoAttack", name, [*_ATTACKS]))
    generator = require_generator(generator)
    package = installed()
    names = list(attacks_to_run) if attacks_to_run is not None else None
    targets = _count_targets(given, names or [version])
    device = given.images.device
    original = package == "autoattack"
    options = {"attacks_to_run": names or [], "verbose": False} if original else {"attacks": names}
    with given.attacking(), seeded(generator, device) as seed, torch.enable_grad():
        attack: Any = import_module(package).AutoAttack(
            Shell(given.model, device),
            norm=_NORMS[threat_model],
            eps=given.epsilon,
            seed=seed,
            version=version if names is None else "custom",
            device=device,
            **options,
        )
        if targets < _TARGETS:
            attack.apgd_targeted.n_target_classes = attack.fab.n_target_classes = targets
        found = attack.run_standard_evaluation(
            given.images.float().contiguous(),  # the authors' code calls view
            given.labels,
            **{"bs" if original else "batch_size": batch_size},
        )
        adv_images: Tensor = found if original else found[0]
        return given.result(adv_images.to(given.images.dtype))


@torch.no_grad()
def _count_targets(given: AttackInputs, names: Sequence[str]) -> int:
    """Returns the number of wrong classes to target, all if there are few."""
    if not len(given.images):
        return _TARGETS
    with given.attacking():
        classes: int = given.model(given.images[:2]).shape[1]
    least = max((_VERSIONS | _ATTACKS)[name] for name in names)
    if classes < least:
        raise InputError(
            f"AutoAttack's {'apgd-t' if least == 4 else 'apgd-dlr'} needs at least {least} classes,"
            f" the model has {classes}; choose other attacks, such as "
            'attacks_to_run=["apgd-ce", "fab-t", "square"]'
        )
    return min(_TARGETS, classes - 1)


def installed() -> str:
    """Returns the name of the installed package of the authors' code.

    Raises:
        ImportError: When there is none.
    """
    for package in ("pyautoattack", "autoattack"):
        with suppress(ImportError):
            import_module(package)
            return package
    raise ImportError(
        "AutoAttack is not installed: pip install pyautoattack, or with all peers "
        'pip install "robustnorm[peers]"'
    )

"""Checks before any attack that a network allows meaningful verdicts."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from robustnorm.attacks import ATTACKS
from robustnorm.attacks.contract import is_training
from robustnorm.attacks.inputs import admit, check_classes
from robustnorm.attacks.logits import (
    NO_GRADIENT,
    InputError,
    NotFiniteError,
    check_finite,
    gradient_of,
)
from robustnorm.evaluation.chunks import CHUNK, rows_of, rows_on_device
from robustnorm.evaluation.errors import EvaluationError
from robustnorm.evaluation.search import Branch
from robustnorm.models.faithful import Standin
from robustnorm.norms.routing import Bound
from robustnorm.records.record import Verdict
from robustnorm.settings.attack_names import EvaluationAttack
from robustnorm.system.memory import in_smaller_batches
from robustnorm.system.precision import exact_float32

log = logging.getLogger("robustnorm")

# Labels count as off by one if there are more than this many classes, and if the shifted labels fit
# more than this fraction of the images.
_SOME_CLASSES, _MOSTLY = 2, 0.5
# Standard deviations above guessing that chance still explains, and the fewest images to judge by.
_DEVIATIONS, _FEW = 2, 30
# Relative to the largest logit. Both forwards have the same number of images, so the same kernels
# run and only the order of sums may differ: by 1e-6 in float32 through a ResNet; 1e-4 leaves room
# for deeper networks. Noise, dropout or batch statistics change logits by 1e-2 and more.
_ROUNDING = 1e-4


def check_mode(model: nn.Module) -> None:
    """Raises an EvaluationError unless the model is in evaluation mode and not bound."""
    if not isinstance(model, nn.Module):
        raise EvaluationError(
            f"evaluate needs a torch.nn.Module, got a {type(model).__name__}; wrap a function in a "
            "module that calls it in its forward"
        )
    if is_training(model):
        raise EvaluationError(
            "evaluate needs the model in evaluation mode: call model.eval() first"
        )
    if any(isinstance(module, Bound) for module in model.modules()):
        raise EvaluationError(
            "evaluate attacks every branch by itself: pass it the model, not bind(model, ...)"
        )


def check_network(
    attacked: Sequence[Branch],
    images: Tensor,
    labels: Tensor,
    attacks: Sequence[EvaluationAttack] = (),
    image_ids: Tensor | None = None,
) -> int:
    """Checks that a branch always gives an image the same logits; returns the number of classes.

    Half a chunk is scored twice, then in another order beside other images (its negatives), and
    differentiated. Likely mistakes, such as probabilities instead of logits, are logged.

    Args:
        attacked: From ``branches``.
        images: (N, C, H, W), uint8 or floating point in [0, 1]; only the first few are used.
        labels: int64 (N,).
        attacks: The attacks to be run, whose requirements are checked.
        image_ids: int64 (N,), for messages; 0..N-1 by default.

    Raises:
        EvaluationError: When the network is not deterministic, its logits depend on the other
            images of a batch, it has too few classes for an attack, or torchattacks does not have
            the class of an attack.
        InputError: When the network does not return logits, a logit or gradient is not finite, a
            label is not a class of the network, or the logits have no gradient and no attack
            searches without one.
        ImportError: When the package of an attack is not installed.
    """
    ids = rows_of(len(images)) if image_ids is None else image_ids.cpu()
    given = (attacked, images, labels, ids)
    classes = in_smaller_batches(partial(_check_logits, *given), CHUNK)
    check_classes(labels, classes)
    blind = any(getattr(ATTACKS[attack.function], "blind", False) for attack in attacks)
    in_smaller_batches(partial(_check_gradients, *given, blind), CHUNK)
    for attack in attacks:
        if classes < attack.least_classes:
            raise EvaluationError(
                f"attack '{attack.name}' needs at least {attack.least_classes} classes, but the "
                f"network has {classes}; leave it out, or use pgd-50x5, apgd-ce or square"
            )
    check_attacks(attacks)
    return classes


def check_attacks(attacks: Sequence[EvaluationAttack]) -> None:
    """Checks that the packages of all attacks are installed.

    Raises:
        EvaluationError: On an unknown class of torchattacks.
        ImportError: When a package is not installed.
    """
    for attack in attacks:
        check = getattr(ATTACKS[attack.function], "check", None)
        try:
            if check is not None:
                check(**attack.options)
        except ValueError as error:
            raise EvaluationError(str(error)) from error


@torch.no_grad()
@exact_float32()
def _check_logits(
    attacked: Sequence[Branch], images: Tensor, labels: Tensor, ids: Tensor, batch_size: int
) -> int:
    """Checks the logits as ``check_network`` describes; returns the number of classes."""
    rows = _few(images, batch_size)
    some, classes = rows_on_device(attacked[0].score, images, labels, rows)
    for branch in attacked:
        logits = branch.score(torch.cat([some, some]))
        check_finite(logits, torch.cat([ids[rows], ids[rows]]))
        tolerance = _ROUNDING * logits.abs().max()
        again = branch.score(torch.cat([some, some]))
        if not (again - logits).abs().max() <= tolerance:
            raise EvaluationError(
                f"the network must give equal images equal logits, but those of branch "
                f"'{branch.name}' differ by {_largest(again - logits)} from one forward to the "
                "next: remove what is random in the network, or average over it there"
            )
        beside = branch.score(torch.cat([1 - some, some]).flip(0)).flip(0)
        change = beside[len(some) :] - logits[: len(some)]
        if not change.abs().max() <= tolerance:
            raise EvaluationError(
                "the logits of an image must not depend on the other images in its batch, but in "
                f"branch '{branch.name}' these changed its logits by {_largest(change)}: use "
                "running statistics, not those of the batch"
            )
        if isinstance(branch.standin, Standin):
            branch.standin.choose(some)  # always on these images, also when an evaluation continues
        _warn_of_likely_mistakes(branch.name, logits[: len(some)], classes)
    return int(logits.shape[1])


def _few(images: Tensor, batch_size: int) -> Tensor:
    return rows_of(min(len(images), max(1, batch_size // 2)))


def are_probabilities(logits: Tensor) -> bool:
    """Returns whether logits (N, K) look like the outputs of a softmax or a sigmoid."""
    return bool(((logits >= 0) & (logits <= 1)).all() and logits.amax() > 0)


def _warn_of_likely_mistakes(branch: str, logits: Tensor, labels: Tensor) -> None:
    """Warns about probabilities instead of logits, and about labels that are off by one."""
    if are_probabilities(logits):
        log.warning(
            "branch '%s': all outputs lie in [0, 1], as after a softmax or a sigmoid: a loss that "
            "expects logits then hardly changes, and the robust accuracy comes out too high; "
            "leave the last layer out",
            branch,
        )
    predicted = logits.argmax(1)
    accuracy = float((predicted == labels).double().mean())
    for shift in (-1, 1):
        shifted = float((predicted == labels + shift).double().mean())
        if len(set(labels.tolist())) > _SOME_CLASSES and shifted > max(2 * accuracy, _MOSTLY):
            log.warning(
                "branch '%s': %.0f %% of the first images are classified as their label says, but "
                "%.0f %% as the label %+d: labels must be the network's class indices, which "
                "start at 0",
                branch,
                100 * accuracy,
                100 * shifted,
                shift,
            )


def _check_gradients(
    attacked: Sequence[Branch],
    images: Tensor,
    labels: Tensor,
    ids: Tensor,
    blind: bool,
    batch_size: int,
) -> None:
    """Checks that the cross-entropy has a finite gradient with respect to the images.

    With ``blind``, because an attack searches without gradients, a missing gradient only warns.

    Raises:
        InputError: When it has none.
    """
    rows = _few(images, batch_size)
    some, classes = rows_on_device(attacked[0].score, images, labels, rows)
    for branch in attacked:
        given = admit(branch.score, some, classes, 0.0, blind=blind)
        try:
            with given.attacking(), torch.enable_grad():
                leaf = given.images.clone().requires_grad_()
                logits = given.model(leaf)
                loss = F.cross_entropy(logits, given.labels, reduction="sum")
                gradient = gradient_of(loss, leaf)
        except NotFiniteError as error:
            raise error.of(ids[rows]) from None
        if gradient is None:
            if not blind:
                raise InputError(NO_GRADIENT)
            log.warning(
                "branch '%s': the logits have no gradient with respect to the images: PGD leaves "
                "these at their random starts and does not measure robustness; the attack worst "
                "searches without gradients, which finds less than the gradients of a "
                "differentiable approximation would",
                branch.name,
            )
            continue
        still = (gradient == 0).flatten(1).all(1) & (logits.argmax(1) == given.labels)
        if still.any():
            log.warning(
                "branch '%s': %d of %d images have a gradient of zero, so PGD leaves them where "
                "they are and does not measure their robustness; look for rounding, for detach(), "
                "or for logits so large that the softmax saturates",
                branch.name,
                int(still.sum()),
                len(still),
            )


def _largest(change: Tensor) -> str:
    return f"{change.abs().max().item():.3g}"


def warn_if_no_better_than_chance(verdicts: Sequence[Verdict], classes: int) -> None:
    """Warns about branches whose standard accuracy is no better than guessing."""
    for verdict in verdicts:
        n, chance = len(verdict.correct), 1 / classes
        beyond = _DEVIATIONS * (chance * (1 - chance) / n) ** 0.5
        if verdict.attack == "none" and n >= _FEW and verdict.accuracy <= chance + beyond:
            log.warning(
                "branch '%s': a standard accuracy of %.1f %% is no better than guessing among %d "
                "classes: look for labels in another order, for mean and std that are missing or "
                "applied twice, and for a training that failed",
                verdict.score_branch,
                100 * verdict.accuracy,
                classes,
            )

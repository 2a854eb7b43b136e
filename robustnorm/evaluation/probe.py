"""What a network must be for its verdicts to mean something; refused before any attack."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor, nn

from robustnorm.attacks import ATTACKS
from robustnorm.evaluation.chunks import CHUNK, check_finite, place
from robustnorm.evaluation.errors import EvaluationError
from robustnorm.evaluation.search import Branch
from robustnorm.models.faithful import Standin
from robustnorm.norms.routing import Bound
from robustnorm.settings.attack_names import EvaluationAttack
from robustnorm.system.memory import in_smaller_batches

# Of the largest logit. Both forwards have the same number of images, so that the same kernels run
# and only the order of sums may differ: 1e-6 in float32 through a ResNet, 1e-4 leaves room for
# deeper networks. Noise, dropout or the batch's own statistics change logits by 1e-2 and more.
_ROUNDING = 1e-4


def check_mode(model: nn.Module) -> None:
    """Raises an EvaluationError unless the model is in evaluation mode and chooses no branch."""
    if any(module.training for module in model.modules()):
        raise EvaluationError(
            "evaluate needs the model in evaluation mode: call model.eval() first"
        )
    if any(isinstance(module, Bound) for module in model.modules()):
        raise EvaluationError(
            "evaluate attacks each branch itself: give it the model, not bind(model, ...)"
        )


def check_network(
    attacked: Sequence[Branch],
    images: Tensor,
    labels: Tensor,
    attacks: Sequence[EvaluationAttack] = (),
) -> None:
    """Raises an EvaluationError unless each branch answers an image alike every time.

    Half a chunk is scored twice, then in another order beside other images, its own negatives.

    Args:
        attacked: From ``branches``.
        images: (N, C, H, W), uint8 or floating point in [0, 1]; the first few are used.
        labels: int64 (N,).
        attacks: That will be run: what they need must be installed, and the classes be enough.

    Raises:
        EvaluationError: On a network that is not deterministic, whose logits depend on the other
            images of a batch, or that has too few classes for an attack; on an unknown class of
            torchattacks.
        ImportError: When the package of an attack is not installed.
    """
    classes = in_smaller_batches(partial(_check_answers, attacked, images, labels), CHUNK)
    for attack in attacks:
        if classes < attack.least_classes:
            raise EvaluationError(
                f"attack '{attack.name}' needs at least {attack.least_classes} classes, the "
                f"network has {classes}; leave it out, or take pgd-50x5, apgd-ce or square"
            )
    check_attacks(attacks)


def check_attacks(attacks: Sequence[EvaluationAttack]) -> None:
    """Raises unless the packages of all attacks are installed.

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
def _check_answers(attacked: Sequence[Branch], images: Tensor, labels: Tensor, whole: int) -> int:
    """Returns the number of classes; checks as ``check_network`` on ``whole`` images at a time."""
    rows = torch.arange(min(len(images), max(1, whole // 2)))
    some, _ = place(attacked[0].score, images, labels, rows)
    for branch in attacked:
        if isinstance(
            branch.standin, Standin
        ):  # on the same images, wherever an evaluation goes on
            branch.standin.prove(some)
        logits = branch.score(torch.cat([some, some]))
        check_finite(logits, torch.cat([rows, rows]), "place")
        tolerance = _ROUNDING * logits.abs().max()
        again = branch.score(torch.cat([some, some]))
        if not (again - logits).abs().max() <= tolerance:
            raise EvaluationError(
                f"the network must answer the same images alike, branch '{branch.name}' gave "
                f"logits that differ by {_largest(again - logits)}: remove what is random in it, "
                "or average it in the network"
            )
        beside = branch.score(torch.cat([1 - some, some]).flip(0)).flip(0)
        change = beside[len(some) :] - logits[: len(some)]
        if not change.abs().max() <= tolerance:
            raise EvaluationError(
                "the network must answer an image alike whatever images are in its batch, those "
                f"of branch '{branch.name}' changed its logits by {_largest(change)}: use running "
                "statistics, not the batch's"
            )
    return int(logits.shape[1])


def _largest(change: Tensor) -> str:
    return f"{change.abs().max().item():.3g}"

"""How far the gradients of branches or classes diverge in the shared weights of each stage."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from robustnorm.attacks.contract import is_training, unchanged
from robustnorm.data.batches import to_float
from robustnorm.evaluation.chunks import CHUNK
from robustnorm.evaluation.diversity import (
    Gradient,
    StageDiversity,
    compare_gradients,
    stage_weights,
)
from robustnorm.norms.routing import Bound, route


class Group(NamedTuple):
    """Images whose mean loss gives one gradient.

    Args:
        branch: The branch that they go through; any name in a network without branches.
        images: (N, C, H, W), uint8 or floating point in [0, 1].
        labels: int64 (N,).
    """

    branch: str
    images: Tensor
    labels: Tensor


def gradient_diversity(
    model: nn.Module, batches: Iterable[Sequence[Group]]
) -> list[StageDiversity]:
    r"""Measures how balanced and how similar the gradients of several groups of images are.

    With :math:`v_{ij}` the gradient, in the weights of one stage, of the mean cross-entropy of
    group j of batch i, and m batches of n groups,

    .. math:: \frac{1}{m} \sum_i \mathrm{std}_j \|v_{ij}\|, \qquad
        \frac{1}{m} \sum_i \frac{1}{n (n - 1)} \sum_j \sum_{k \ne j}
        \frac{v_{ij} \cdot v_{ik}}{\|v_{ij}\| \|v_{ik}\|}

    where std divides by n: the groups are the whole population. The weights are those of the
    convolutions and of the last linear layer, which all branches share; a stage is a child of the
    network, such as ``layer1``. The 95 % intervals are Student's, over the choice of the batches. A
    group of few images has a noisy gradient, which lowers the cosine and changes the norms: compare
    only numbers from groups of the same size.

    Args:
        model: In evaluation mode, so that running statistics are used and a gradient depends only
            on its group. Left unchanged.
        batches: At least two groups each, in the same order in every batch.

    Returns:
        One entry per stage, in the order of the network.

    Raises:
        ValueError: When a module is in train mode, the model is bound to a branch, no weight
            requires a gradient, there is no batch, a batch has fewer than two groups, a group has
            no image, or a gradient is zero or not finite.

    References:
        Gong et al., Sandwich Batch Normalization, WACV 2022, arXiv:2102.11382, Eq. 4 and 5 and
        Figure 2, for the classes of a generator during training: there m is the number of latent
        vectors, each used with every class, and a gradient is that of one image through the
        discriminator. Here a group is a set of images, and the network is a trained classifier
        whose linear layer is one more stage. The paper uses the convolutions directly before a
        norm; this function uses all of them.

    Examples:
        >>> from robustnorm import resnet18
        >>> model = resnet18(norm="auxbn", width=4, num_classes=3).eval()
        >>> images, labels = torch.rand(6, 3, 8, 8), torch.tensor([0, 1, 2, 0, 1, 2])
        >>> groups = [Group("clean", images, labels), Group("adv", images, labels)]
        >>> stages = gradient_diversity(model, [groups])
        >>> [stage.stage for stage in stages]
        ['conv1', 'layer1', 'layer2', 'layer3', 'layer4', 'fc']
        >>> round(stages[0].mean_cosine, 4)  # before training the branches are equal
        1.0
    """
    check_model(model)
    stages = stage_weights(model)
    weights = [weight for members in stages.values() for weight in members]
    with unchanged(model):
        return compare_gradients(
            stages, ([_gradient(model, weights, group) for group in groups] for groups in batches)
        )


def check_model(model: nn.Module) -> None:
    """Raises a ValueError unless the model is in evaluation mode and not bound to a branch."""
    if is_training(model):
        raise ValueError("gradients need the model in evaluation mode: call model.eval() first")
    if any(isinstance(module, Bound) for module in model.modules()):
        raise ValueError(
            "groups are routed to their branches: pass the model, not bind(model, ...)"
        )


def _gradient(model: nn.Module, weights: Sequence[nn.Parameter], group: Group) -> Gradient:
    """Returns the gradient of the group's mean cross-entropy, accumulated chunk by chunk."""
    n, device = len(group.images), weights[0].device
    if not n:
        raise ValueError(f"a group (branch '{group.branch}') has no image; each needs at least one")
    total = [torch.zeros_like(weight) for weight in weights]
    for images, labels in zip(
        torch.split(group.images, CHUNK), torch.split(group.labels, CHUNK), strict=True
    ):
        with torch.enable_grad(), route(model, group.branch):
            logits = model(to_float(images.to(device)))
            loss = F.cross_entropy(logits, labels.to(device), reduction="sum") / n
            gradients = torch.autograd.grad(loss, weights, materialize_grads=True)
        for sum_, gradient in zip(total, gradients, strict=True):
            sum_ += gradient
    return Gradient(f"branch '{group.branch}'", total)

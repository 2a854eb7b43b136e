"""How far the gradients of branches or of classes pull the shared weights apart, stage by stage."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import t
from torch import Tensor, nn
from torch.nn import functional as F

from robustnorm.data.batches import to_float
from robustnorm.evaluation.search import CHUNK
from robustnorm.evaluation.statistics import Interval
from robustnorm.norms.routing import Bound, route


class Group(NamedTuple):
    """Images that give one gradient.

    Args:
        branch: Through which they go; on a network without branches any name.
        images: (N, C, H, W), uint8 or floating point in [0, 1].
        labels: int64 (N,).
    """

    branch: str
    images: Tensor
    labels: Tensor


class StageDiversity(NamedTuple):
    """What the groups' gradients of one stage have in common; each a mean over the batches.

    Attributes:
        stage: Name of the stage.
        std_of_norms: Standard deviation, over the groups, of the gradients' L2 norms.
        mean_norm: Mean of those norms, the scale on which to read it.
        mean_cosine: Mean cosine of the pairs of gradients; of n, in [-1 / (n - 1), 1].
        std_interval: 95 % interval of ``std_of_norms``; None from one batch.
        cosine_interval: 95 % interval of ``mean_cosine``; None from one batch.
    """

    stage: str
    std_of_norms: float
    mean_norm: float
    mean_cosine: float
    std_interval: Interval | None
    cosine_interval: Interval | None


def gradient_diversity(
    model: nn.Module, batches: Iterable[Sequence[Group]]
) -> list[StageDiversity]:
    r"""Measures how balanced and how alike the gradients of several groups of images are.

    With :math:`v_{ij}` the gradient, in the weights of one stage, of the mean cross-entropy of
    group j of batch i, and m batches of n groups,

    .. math:: \frac{1}{m} \sum_i \mathrm{std}_j \|v_{ij}\|, \qquad
        \frac{1}{m} \sum_i \frac{1}{n (n - 1)} \sum_j \sum_{k \ne j}
        \frac{v_{ij} \cdot v_{ik}}{\|v_{ij}\| \|v_{ik}\|}

    where std divides by n: the groups are all there are. The weights are those of the convolutions
    and of the last linear layer, which every branch shares; a stage is a child of the network, such
    as ``layer1``. The 95 % intervals are Student's, over the choice of the batches. A group of few
    images has a noisy gradient, which lowers the cosine and moves the norms: compare only numbers
    from groups of the same size.

    Args:
        model: In evaluation mode, so that a gradient depends on its own group alone: statistics
            are the running ones. Left as it was.
        batches: Each of two or more groups, in every batch the same ones in the same order.

    Returns:
        One entry a stage, in the order of the network.

    Raises:
        ValueError: When a module is in train mode or the model is bound to a branch, when no weight
            takes a gradient, there is no batch, a batch has fewer than two groups, a group has no
            image, or a gradient is zero or not finite and so has no direction.

    References:
        Gong et al., Sandwich Batch Normalization, WACV 2022, arXiv:2102.11382, Eq. 4 and 5 and
        Figure 2, for the classes of a generator in training: there m counts latent vectors, each
        given to every class, and the gradient is that of one image through the discriminator. Here
        a group is a set of images and the network a trained classifier, whose linear layer is one
        more stage. The paper takes the convolutions right before a norm, this function all.

    Examples:
        >>> from robustnorm import resnet18
        >>> model = resnet18(norm="auxbn", width=4, num_classes=3).eval()
        >>> images, labels = torch.rand(6, 3, 8, 8), torch.tensor([0, 1, 2, 0, 1, 2])
        >>> groups = [Group("clean", images, labels), Group("adv", images, labels)]
        >>> stages = gradient_diversity(model, [groups])
        >>> [stage.stage for stage in stages]
        ['conv1', 'layer1', 'layer2', 'layer3', 'layer4', 'fc']
        >>> round(stages[0].mean_cosine, 4)  # before training the branches are the same
        1.0
    """
    check_model(model)
    stages = stage_weights(model)
    values = np.array([_of_batch(model, stages, groups) for groups in batches])
    if not len(values):
        raise ValueError("gradient_diversity needs at least one batch, got none")
    means = values.mean(0)
    intervals = [_interval(values[:, :, column]) for column in (0, 2)]
    return [
        StageDiversity(stage, std, norm, cosine, intervals[0][i], intervals[1][i])
        for i, (stage, (std, norm, cosine)) in enumerate(zip(stages, means.tolist(), strict=True))
    ]


def stage_weights(model: nn.Module) -> dict[str, list[nn.Parameter]]:
    """Returns the shared weights of each stage: of its convolutions, or of the last linear layer.

    Stages are the network's children; one that is only a wrapper around all of them is opened. No
    other linear layer counts: ModeNorm's gates belong to its norms.

    Raises:
        ValueError: When no such weight takes a gradient.
    """
    named = list(model.named_modules())
    linear = [module for _, module in named if isinstance(module, nn.Linear)]
    layers = {
        tuple(name.split(".")): module.weight
        for name, module in named
        if (isinstance(module, nn.Conv2d) or module in linear[-1:]) and module.weight.requires_grad
    }
    if not layers:
        raise ValueError(
            "gradients need a convolution or a linear layer whose weight requires a gradient, "
            f"{type(model).__name__} has none"
        )
    depth = 0
    while len({path[: depth + 1] for path in layers}) == 1 and all(
        len(path) > depth + 1 for path in layers
    ):
        depth += 1
    stages: dict[str, list[nn.Parameter]] = {}
    for path, weight in layers.items():
        stages.setdefault(path[depth], []).append(weight)
    return stages


def check_model(model: nn.Module) -> None:
    """Raises a ValueError on a model whose gradients would not be those of one group."""
    if any(module.training for module in model.modules()):
        raise ValueError("gradients need the model in evaluation mode: call model.eval() first")
    if any(isinstance(module, Bound) for module in model.modules()):
        raise ValueError("each group is routed here: give the model, not bind(model, ...)")


def _of_batch(
    model: nn.Module, stages: dict[str, list[nn.Parameter]], groups: Sequence[Group]
) -> list[tuple[float, float, float]]:
    """Returns standard deviation and mean of the norms, and the mean cosine, of each stage."""
    if len(groups) < 2:
        raise ValueError(f"a batch needs at least two groups to compare, got {len(groups)}")
    weights = [weight for members in stages.values() for weight in members]
    gradients = [_gradient(model, weights, group) for group in groups]
    result, first = [], 0
    for stage, members in stages.items():
        # Inner products of the groups' gradients, summed weight by weight.
        products = torch.zeros(len(groups), len(groups), dtype=torch.float64)
        for i in range(first, first + len(members)):
            rows = torch.stack([gradient[i].flatten() for gradient in gradients]).double()
            products += (rows @ rows.T).cpu()
        first += len(members)
        norms = products.diagonal().sqrt()
        usable = (norms > 0) & norms.isfinite()
        if not usable.all():
            number = int(usable.logical_not().nonzero()[0])
            raise ValueError(
                f"the gradient of {stage} has the norm {norms[number]:.3g} for group {number} "
                f"(branch '{groups[number].branch}'), so it has no direction; give more images, or "
                "another checkpoint"
            )
        cosines = (products / norms.outer(norms)).fill_diagonal_(0)
        pairs = len(groups) * (len(groups) - 1)
        result.append(
            (norms.std(correction=0).item(), norms.mean().item(), cosines.sum().item() / pairs)
        )
    return result


def _gradient(model: nn.Module, weights: Sequence[nn.Parameter], group: Group) -> list[Tensor]:
    """Returns the gradient of the group's mean cross-entropy, summed up chunk by chunk."""
    n, device = len(group.images), weights[0].device
    if not n:
        raise ValueError(f"a group (branch '{group.branch}') has no image; give each at least one")
    total = [torch.zeros_like(weight) for weight in weights]
    for images, labels in zip(
        torch.split(group.images, CHUNK), torch.split(group.labels, CHUNK), strict=True
    ):
        with torch.enable_grad(), route(model, group.branch):
            logits = model(to_float(images.to(device)))
            loss = F.cross_entropy(logits, labels.to(device), reduction="sum") / n
            part = torch.autograd.grad(loss, weights, materialize_grads=True)
        for sum_, gradient in zip(total, part, strict=True):
            sum_ += gradient
    return total


def _interval(values: NDArray[np.float64]) -> list[Interval | None]:
    """Returns Student's 95 % interval of the mean of each column, a row a batch."""
    m = len(values)
    if m == 1:
        return [None] * values.shape[1]
    mean = values.mean(0)
    half = t.ppf(0.975, m - 1) * values.std(0, ddof=1) / np.sqrt(m)
    return [Interval(float(a - b), float(a + b)) for a, b in zip(mean, half, strict=True)]

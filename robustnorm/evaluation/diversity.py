"""Compares the gradients of several groups of images, stage by stage: their norms and cosines."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized

from robustnorm.evaluation.statistics import Interval, student
from robustnorm.norms.mode import ModeNorm
from robustnorm.system.structure import interval


class Gradient(NamedTuple):
    """The gradient of one group: the group's name, used in messages, and one tensor per weight."""

    group: str
    parts: Sequence[Tensor]


class StageDiversity(NamedTuple):
    """How the groups' gradients compare in one stage; each value is a mean over the batches.

    Attributes:
        stage: Name of the stage.
        std_of_norms: Standard deviation, over the groups, of the gradients' L2 norms.
        mean_norm: Mean of these norms, for comparison.
        mean_cosine: Mean cosine of the pairs of gradients; for n groups in [-1 / (n - 1), 1].
        std_interval: 95 % interval of ``std_of_norms``; None for one batch.
        cosine_interval: 95 % interval of ``mean_cosine``; None for one batch.
    """

    stage: str
    std_of_norms: float
    mean_norm: float
    mean_cosine: float
    std_interval: Interval | None
    cosine_interval: Interval | None


# Shape of a ``StageDiversity`` in a JSON file.
STAGE = {
    "stage": str,
    **dict.fromkeys(("std_of_norms", "mean_norm", "mean_cosine"), float),
    **dict.fromkeys(("std_interval", "cosine_interval"), interval),
}


def compare_gradients(
    stages: Mapping[str, Sequence[nn.Parameter]], batches: Iterable[Sequence[Gradient]]
) -> list[StageDiversity]:
    r"""Compares the gradients of several groups, stage by stage.

    With :math:`v_{ij}` the gradient of group j of batch i in the weights of one stage, and m
    batches of n groups,

    .. math:: \frac{1}{m} \sum_i \mathrm{std}_j \|v_{ij}\|, \qquad
        \frac{1}{m} \sum_i \frac{1}{n (n - 1)} \sum_j \sum_{k \ne j}
        \frac{v_{ij} \cdot v_{ik}}{\|v_{ij}\| \|v_{ik}\|}

    where std divides by n: the groups are the whole population. The 95 % intervals are Student's,
    over the choice of the batches. A group of few images has a noisy gradient, which lowers the
    cosine and changes the norms: compare only numbers from groups of the same size.

    Args:
        stages: Weights by name of the stage.
        batches: The groups' gradients, at least two per batch, of the same groups in the same order
            in every batch. Their tensors follow the weights of all stages in order.

    Raises:
        ValueError: When there is no batch, a batch has fewer than two gradients, or a gradient is
            zero or not finite.

    References:
        Gong et al., Sandwich Batch Normalization, WACV 2022, arXiv:2102.11382, Eq. 4 and 5.

    Examples:
        >>> weight = nn.Parameter(torch.zeros(2))
        >>> gradients = [Gradient("a", [torch.tensor([3.0, 0])]), Gradient("b", [torch.ones(2)])]
        >>> (stage,) = compare_gradients({"conv": [weight]}, [gradients])
        >>> round(stage.mean_cosine, 3)  # at 45 degrees
        0.707
    """
    values = np.array([_of_batch(stages, gradients) for gradients in batches])
    if not len(values):
        raise ValueError("comparing gradients needs at least one batch, got none")
    return [
        StageDiversity(stage, *of_stage.mean(0).tolist(), *map(student, of_stage.T[[0, 2]]))
        for stage, of_stage in zip(stages, values.swapaxes(0, 1), strict=True)
    ]


def stage_weights(model: nn.Module) -> dict[str, list[nn.Parameter]]:
    """Returns the shared weights of each stage: those of its convolutions and last linear layer.

    Stages are the network's children; a single child that contains all layers is replaced by its
    own children. Only the network's last linear layer counts, and none of ModeNorm's gates, which
    belong to the norm layers. If a weight is computed from another one, as in spectral
    normalization, that other weight is returned.

    Raises:
        ValueError: When no such weight requires a gradient.
    """
    named = list(model.named_modules())
    gates = {m.gate for _, m in named if isinstance(m, ModeNorm)}
    linear = [m for _, m in named if isinstance(m, nn.Linear) and m not in gates]
    layers = {
        tuple(name.split(".")): weight
        for name, module in named
        if isinstance(module, nn.Conv2d) or module in linear[-1:]
        for weight in [_weight(module)]
        if weight.requires_grad
    }
    if not layers:
        raise ValueError(
            "comparing gradients needs a convolution or a linear layer whose weight requires a "
            f"gradient; {type(model).__name__} has none"
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


def _weight(module: nn.Module) -> nn.Parameter:
    if is_parametrized(module, "weight"):
        module = module.parametrizations["weight"]  # type: ignore[index,assignment]
        return module.original  # type: ignore[return-value]
    return module.weight  # type: ignore[return-value]


def _of_batch(
    stages: Mapping[str, Sequence[nn.Parameter]], gradients: Sequence[Gradient]
) -> list[tuple[float, float, float]]:
    """Returns for each stage the standard deviation and mean of the norms, and the mean cosine."""
    if len(gradients) < 2:
        raise ValueError(f"a batch needs at least two groups to compare, got {len(gradients)}")
    result, first = [], 0
    for stage, members in stages.items():
        # Inner products of the groups' gradients, summed weight by weight.
        size = len(gradients), len(gradients)
        products = torch.zeros(size, dtype=torch.float64, device="cpu")
        for i in range(first, first + len(members)):
            rows = torch.stack([gradient.parts[i].flatten() for gradient in gradients]).double()
            products += (rows @ rows.T).cpu()
        first += len(members)
        norms = products.diagonal().sqrt()
        usable = (norms > 0) & norms.isfinite()
        if not usable.all():
            number = int(usable.logical_not().nonzero()[0])
            raise ValueError(
                f"the gradient of {stage} for group {number} ({gradients[number].group}) has norm "
                f"{norms[number]:.3g} and therefore no direction; use more images, or another "
                "checkpoint"
            )
        cosines = (products / norms.outer(norms)).fill_diagonal_(0)
        pairs = len(gradients) * (len(gradients) - 1)
        result.append(
            (norms.std(correction=0).item(), norms.mean().item(), cosines.sum().item() / pairs)
        )
    return result

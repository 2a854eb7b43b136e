"""Evidence from single forward and backward passes of a branch, without an attack."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from robustnorm.evaluation.search import Branch
from robustnorm.models.serving import RULES
from robustnorm.norms.routing import RoutedLayer
from robustnorm.system.precision import exact_float32

# Evidence on one branch: one value per image, by name. Verdicts are True where an image withstood.
Evidence = dict[str, Tensor]


def usable_gradients(model: Callable[[Tensor], Tensor], images: Tensor, labels: Tensor) -> Tensor:
    """Returns for each image whether its loss has a finite gradient that is not all zero, (N,)."""
    images = images.detach().requires_grad_()
    with torch.enable_grad():
        logits = model(images)
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        loss = F.cross_entropy(logits, labels, reduction="sum")
        (gradient,) = torch.autograd.grad(loss, images)
    flat = gradient.flatten(1)
    return (flat != 0).any(1) & flat.isfinite().all(1)


@torch.no_grad()
def copy_difference(branch: Branch, images: Tensor) -> Tensor:
    """Returns by how much the copy's logits differ from the network's, (N,).

    The difference is relative to the largest logit, and is the larger one of those on a clean
    image and on the attacked one.

    Args:
        branch: Network and copy.
        images: (2 N, C, H, W), N clean images and the same images attacked.
    """
    with exact_float32():
        logits, climbed = (model(images) for model in (branch.score, branch.standin))
    change = (climbed - logits).abs().amax(1) / logits.abs().max().clamp_min(1e-30)
    return change.nan_to_num(nan=1.0, posinf=1.0).view(2, -1).amax(0)


@torch.no_grad()
def in_unit_interval(branch: Branch, images: Tensor) -> Tensor:
    """Returns for each image whether all its outputs lie in [0, 1], (N,)."""
    logits: Tensor = branch.score(images)
    return ((logits >= 0) & (logits <= 1)).all(1)


def input_scale_evidence(branch: Branch, images: Tensor) -> Evidence:
    """Returns ``input_scale`` as evidence, the same for each image; empty where there is none."""
    found = None if branch.name in RULES else input_scale(branch.score, images)
    return {} if found is None else {"scale": images.new_full((len(images),), found)}


@torch.no_grad()
def logit_changes(branch: Branch, images: Tensor) -> Evidence:
    """Returns by how much an image's logits change, relative to the largest logit.

    Measured between two equal forwards, and between two batches of different size and order.
    """
    # On a GPU, batches of different sizes may use kernels of different precision.
    with exact_float32():
        logits: Tensor = branch.score(images)
        repeated = branch.score(images)
        among = branch.score(torch.cat([1 - images, images.flip(0)]))[len(images) :].flip(0)
    largest = logits.abs().max().clamp_min(torch.finfo(logits.dtype).tiny)

    def change(others: Tensor) -> Tensor:
        changed = (others - logits).abs().amax(1) / largest
        return changed.nan_to_num(nan=1.0, posinf=1.0)

    return {"repeated": change(repeated), "among others": change(among)}


@torch.no_grad()
def input_scale(score: nn.Module, images: Tensor) -> float | None:
    """Returns by which factor the scale of the first norm layer's input differs from training.

    Compares the mean square of each channel with that in the layer's running statistics, and takes
    the median over the channels.

    Args:
        score: Images to logits.
        images: (N, C, H, W), clean.

    Returns:
        The factor between the mean squares, at least 1, or None without running statistics.
    """
    factors: list[float] = []

    def compare(layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        expected = None if factors or not inputs else _mean_square(layer, inputs[0])
        if expected is not None:
            found = inputs[0].double().square().transpose(0, 1).flatten(1).mean(1)
            # Avoids a division by zero for channels that were constantly zero in training.
            ratio = float((found / expected.clamp_min(1e-12)).median())
            factors.append(max(ratio, 1 / max(ratio, 1e-12)))

    handles = [layer.register_forward_pre_hook(compare) for layer in score.modules()]
    try:
        score(images)
    finally:
        for handle in handles:
            handle.remove()
    return factors[0] if factors else None


def _mean_square(layer: nn.Module, input: object) -> Tensor | None:
    """Returns the mean square that a layer's running statistics imply for its input's channels.

    None without them, and for inputs that are not feature maps (N, C, ...) of as many channels.
    """
    kept: Any = layer
    if not isinstance(input, Tensor) or input.dim() < 3:
        return None
    if getattr(layer, "running_second_moment", None) is not None:
        square = kept.running_second_moment  # (modes, C)
    elif getattr(layer, "running_var", None) is not None:
        square = kept.running_var + kept.running_mean.square()  # (C,) or (branches, C)
        if square.dim() == 2 and isinstance(layer, RoutedLayer):
            row = layer.selection(len(input))
            if not isinstance(row, int):
                return None
            square = square[row]
    else:
        return None
    channels = input.shape[1]
    # Other code keeps (1, C, 1, 1).
    return None if square.numel() % channels else square.double().reshape(-1, channels).mean(0)

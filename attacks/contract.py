"""What every attack checks and keeps."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

Model = Callable[[Tensor], Tensor]


def check_inputs(images: Tensor, labels: Tensor, epsilon: float) -> None:
    """Raises a ValueError on inputs that no attack takes; waits for the device once."""
    if not images.is_floating_point() or images.dim() < 2:
        raise ValueError(
            "images must be floating point of shape (N, C, H, W) in [0, 1], got "
            f"{images.dtype} of shape {tuple(images.shape)}"
        )
    if labels.dtype != torch.int64 or labels.shape != images.shape[:1]:
        raise ValueError(
            f"labels must be int64 of shape ({len(images)},), got {labels.dtype} of shape "
            f"{tuple(labels.shape)}"
        )
    if epsilon < 0:
        raise ValueError(f"epsilon must be at least 0, got {epsilon}")
    if images.numel():
        low, high = torch.stack(images.detach().aminmax()).tolist()
        if not (low >= 0 and high <= 1):
            raise ValueError(
                f"images must lie in [0, 1], got values from {low:.4g} to {high:.4g}; mean and "
                "std normalization belong inside the model"
            )


def require_generator(generator: torch.Generator | None, alternative: str = "") -> torch.Generator:
    """Returns the generator, or raises a ValueError: no attack draws from a seed of its own."""
    if generator is None:
        raise ValueError(
            "this attack is random: pass generator=torch.Generator().manual_seed(seed)"
            + alternative
        )
    return generator


@contextmanager
def unchanged(model: Model) -> Iterator[None]:
    """Puts the model's buffers and train or eval modes back after the block.

    A function that is no module keeps nothing that an attack could know of.
    """
    if not isinstance(model, nn.Module):
        yield
        return
    modes = [(module, module.training) for module in model.modules()]
    buffers = [(buffer, buffer.clone()) for buffer in model.buffers()]
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training
        with torch.no_grad():
            for buffer, before in buffers:
                buffer.copy_(before)

"""ModeNorm's gates on clean and on attacked images."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from statistics import NormalDist

import torch
from torch import Tensor, nn

from robustnorm.evaluation.statistics import Interval
from robustnorm.norms.mode import ModeNorm


@dataclass(frozen=True)
class GateUsage:
    """Gates of one layer on the same images before and after an attack, each (N, K)."""

    layer: str
    clean: Tensor
    adv: Tensor

    def distance(self) -> Tensor:
        """Returns how much the attack changed each image's gates, (N,).

        This is the total variation distance, half the sum over modes of the absolute differences:
        0 when the gates are equal, 1 when all weight moves from some modes to others.
        """
        return (self.clean - self.adv).abs().sum(1) / 2


def entropy(gates: Tensor) -> Tensor:
    """Returns the entropy of each row of gates (N, K) in bits, (N,), from 0 to log2 K.

    Examples:
        >>> entropy(torch.tensor([[0.5, 0.5], [1.0, 0.0]]))
        tensor([1., 0.])
    """
    nats: Tensor = torch.special.entr(gates).sum(1)
    return nats / math.log(2)


def mean_interval(values: Tensor) -> Interval | None:
    """Returns the normal 95 % interval for the mean of ``values`` (n,); None for fewer than two."""
    if len(values) < 2:
        return None
    half = NormalDist().inv_cdf(0.975) * values.std().item() / math.sqrt(len(values))
    return Interval(values.mean().item() - half, values.mean().item() + half)


@torch.no_grad()
def gates(model: nn.Module, batches: Iterable[Tensor]) -> dict[str, Tensor]:
    """Returns the gates of every ModeNorm of ``model``, (N, K), by the layer's name.

    Args:
        model: Runs in its current mode; train mode updates its buffers.
        batches: Batches of images (N, C, H, W) in [0, 1].

    Raises:
        ValueError: When ``model`` has no ModeNorm.

    References:
        Deecke et al., Mode Normalization, ICLR 2019, arXiv:1810.05466.

    Examples:
        >>> found = gates(ModeNorm(3).eval(), [torch.rand(2, 3, 4, 4), torch.rand(1, 3, 4, 4)])
        >>> [(name, tuple(value.shape)) for name, value in found.items()]
        [('', (3, 2))]
    """
    layers = {name: m for name, m in model.named_modules() if isinstance(m, ModeNorm)}
    if not layers:
        raise ValueError("gates need a model with ModeNorm layers; this one has none")
    seen: dict[str, list[Tensor]] = {name: [] for name in layers}

    def keep(name: str, gate: nn.Module, inputs: object, logits: Tensor) -> None:
        seen[name].append(logits.softmax(1).cpu())

    hooks = [m.gate.register_forward_hook(partial(keep, name)) for name, m in layers.items()]
    try:
        for images in batches:
            model(images)
    finally:
        for hook in hooks:
            hook.remove()
    return {name: torch.cat(values) for name, values in seen.items()}

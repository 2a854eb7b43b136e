"""Replaces a network with a faster copy only after checking that both compute the same."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from robustnorm.attacks.logits import InputError, attach_gradient, gradient_of
from robustnorm.models.serving import Served
from robustnorm.system.memory import is_out_of_memory

log = logging.getLogger("robustnorm")

Network = Callable[[Tensor], Tensor]


class Tolerance(NamedTuple):
    """Largest accepted differences, relative to the largest logit and the gradients' length."""

    logits: float
    gradients: float


# Folding causes errors of 1e-5 in float32 and 1e-3 in TF32, and a ReLU's gradient jumps where its
# input rounds to 0. In bf16 a ResNet-18's logits have errors of 1e-2 and its gradients of 0.2. A
# copy that lacks a layer changes the logits by a tenth or more.
TOLERANCE = {"fp32": Tolerance(5e-3, 5e-2), "bf16": Tolerance(5e-2, 0.5)}

_AT_ONCE = 100
_NOISE = 0.05


def difference(
    copy: Network, network: Network, images: Tensor, tolerance: Tolerance = TOLERANCE["fp32"]
) -> str:
    """Describes how a copy differs from its network; "" when they agree up to rounding.

    Compares the logits and the gradients, with respect to the images, of a fixed mixture of the
    logits, on the images and on noisy ones (8-bit images would hide a quantization).

    Args:
        copy: Images (N, C, H, W) to logits (N, K), in evaluation mode.
        network: The same, in evaluation mode.
        images: Floating point in [0, 1].
        tolerance: Differences that count as rounding.

    Examples:
        >>> images = torch.rand(4, 3)
        >>> difference(lambda x: x * (1 + 1e-6), lambda x: x, images)
        ''
        >>> difference(lambda x: x.round(), lambda x: x, images).startswith("logits")
        True
        >>> difference(lambda x: x.detach() + 0 * x, lambda x: x, images)
        'gradients that differ by 1 of their length'
    """
    wave = torch.arange(images.numel(), device=images.device).cos().view(images.shape)
    noisy = (images + _NOISE * wave).clamp(0, 1).to(images.dtype)
    # Largest difference and largest logit; squared lengths of the difference and the gradient.
    logits_off, logits_size, grads_off, grads_size = torch.zeros(
        4, dtype=torch.float64, device="cpu"
    )
    for batch in torch.split(torch.cat([images, noisy]), _AT_ONCE):
        logits, grads = _logits_and_gradients(network, batch)
        others, other_grads = _logits_and_gradients(copy, batch)
        # torch.maximum propagates NaN, which fails the comparison below.
        logits_off = torch.maximum(logits_off, (others - logits).abs().max())
        logits_size = torch.maximum(logits_size, logits.abs().max())
        grads_off += (other_grads - grads).square().sum()
        grads_size += grads.square().sum()
    if not logits_off <= tolerance.logits * logits_size:
        return f"logits that differ by {logits_off:.3g}, where the largest is {logits_size:.3g}"
    if not grads_off.sqrt() <= tolerance.gradients * grads_size.sqrt():
        return f"gradients that differ by {(grads_off / grads_size).sqrt():.3g} of their length"
    return ""


@torch.enable_grad()
def _logits_and_gradients(network: Network, images: Tensor) -> tuple[Tensor, Tensor]:
    """Returns logits and input gradients in float64 on the CPU."""
    leaf = images.detach().clone().requires_grad_()
    logits = network(leaf)
    upstream = torch.arange(logits.numel(), device=logits.device).cos().view(logits.shape)
    (gradient,) = torch.autograd.grad(logits, leaf, upstream.to(logits.dtype))
    return logits.detach().double().cpu(), gradient.double().cpu()


class Standin:
    """Calls a fast copy if it agrees with the network on the first images, else the network.

    If the network's logits have no gradient, they get one of zero, so that an attack that follows
    gradients does not move the images.

    Args:
        copy: The copy to compare, in float32.
        network: The network that the copy should agree with.
        quick: A still faster version of the copy, such as compiled or in bfloat16, called instead
            of the copy if it, too, agrees with the network.
        name: Name of the branch, for the log.
        tolerance: Differences of ``quick`` that count as rounding.
    """

    def __init__(
        self,
        copy: Network,
        network: Network,
        quick: Network,
        name: str,
        tolerance: Tolerance = TOLERANCE["fp32"],
    ) -> None:
        self._copy, self._network, self._quick, self._name = copy, network, quick, name
        self._tolerance = tolerance
        self._chosen: Network | None = None
        self.is_blind = False  # whether the network has no gradient

    def __call__(self, images: Tensor) -> Tensor:
        self.choose(images)
        assert self._chosen is not None
        logits = self._chosen(images)
        return attach_gradient(logits, images) if self.is_blind else logits

    @property
    def is_network(self) -> bool:
        """Whether the network itself is called."""
        return self._chosen is self._network

    def choose(self, images: Tensor) -> None:
        """Chooses what to call, once; logs why if it is not the fastest."""
        if self._chosen is not None:
            return
        self._chosen = self._network
        if self._agrees(self._copy, images, TOLERANCE["fp32"], "the network itself", "folded"):
            self._chosen = self._copy
            # At a batch size like that of an attack, for which the code is then compiled.
            count = max(len(images), _AT_ONCE // 2)
            filled = images[torch.arange(count, device=images.device) % len(images)]
            if self._quick is not self._copy and self._agrees(
                self._quick, filled, self._tolerance, "the folded copy", "quicker"
            ):
                self._chosen = self._quick
        self._copy = self._quick = self._chosen  # frees the memory of the others

    def _agrees(
        self, copy: Network, images: Tensor, tolerance: Tolerance, instead: str, kind: str
    ) -> bool:
        try:
            found = difference(copy, self._network, images, tolerance)
        except (
            RuntimeError,
            InputError,
        ) as error:  # no gradient, such as in a detached forward pass
            if is_out_of_memory(error):
                raise
            self.is_blind = not has_gradient(self._network, images)
            found = f"no gradient to compare ({str(error).splitlines()[0]})"
        if found:
            log.warning(
                "branch '%s': a %s copy has %s; %s is attacked, which takes longer",
                self._name,
                kind,
                found,
                instead,
            )
        return not found


def has_gradient(network: Network, images: Tensor) -> bool:
    """Returns whether a network's logits depend differentiably on its images."""
    with torch.enable_grad():
        leaf = images.detach().clone().requires_grad_()
        return gradient_of(network(leaf).sum(), leaf) is not None


def gradient_source(search: Network) -> str:
    """Returns where an attack's gradients come from: "copy", "network" or "nothing".

    For a serving rule, returns the last of these that any branch has.
    """
    if isinstance(search, Served):
        return max(map(gradient_source, search.branches), key=("copy", "network", "nothing").index)
    if not isinstance(search, Standin):
        return "copy"
    return "nothing" if search.is_blind else "network" if search.is_network else "copy"

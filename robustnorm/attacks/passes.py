"""The cost of an attack: images passed forward and backward through a network."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from torch import Tensor, nn

from robustnorm.attacks.logits import Model


class Passes(NamedTuple):
    """Numbers of images passed forward, and backward for their gradients."""

    forward: int = 0
    backward: int = 0

    @classmethod
    def sum(cls, passes: Iterable[Passes]) -> Passes:
        """Returns the total."""
        pairs = [*passes]
        return cls(sum(p.forward for p in pairs), sum(p.backward for p in pairs))


class Counted(nn.Module):
    """Wraps a model and counts its passes.

    An image counts as one forward pass in each batch that contains it, and as one backward pass
    each time gradients of that batch's logits are computed.

    Args:
        model: Images to logits.

    Attributes:
        passes: Passes so far.

    Examples:
        >>> import torch
        >>> model = Counted(torch.nn.Linear(3, 2))
        >>> images = torch.rand(5, 3, requires_grad=True)
        >>> model(images).sum().backward()
        >>> with torch.no_grad():
        ...     logits = model(images[:2])
        >>> model.passes
        Passes(forward=7, backward=5)
    """

    def __init__(self, model: Model) -> None:
        super().__init__()
        self.model = model
        self.passes = Passes()

    def forward(self, images: Tensor) -> Tensor:
        count, logits = len(images), self.model(images)
        self._add(count, 0)
        if logits.requires_grad:
            # torch's method has no types.
            logits.register_hook(lambda _: self._add(0, count))  # type: ignore[no-untyped-call]
        return logits

    def _add(self, forward: int, backward: int) -> None:
        self.passes = Passes(self.passes.forward + forward, self.passes.backward + backward)

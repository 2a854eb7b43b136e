"""How often an attack asks a network: images that pass it forward and back."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from torch import Tensor, nn

from robustnorm.attacks.asked import Model


class Passes(NamedTuple):
    """Images that passed a network forward, and back for their gradients."""

    forward: int = 0
    backward: int = 0

    @classmethod
    def sum(cls, parts: Iterable[Passes]) -> Passes:
        """Returns the passes of all parts together."""
        pairs = [*parts]
        return cls(sum(p.forward for p in pairs), sum(p.backward for p in pairs))


class Counted(nn.Module):
    """A model that counts its passes; otherwise it is that model.

    An image counts once for each batch that it is in, and again for each time that gradients are
    asked of that batch's logits.

    Args:
        model: Images to logits.

    Attributes:
        passes: Since it was made.

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
            logits.register_hook(lambda _: self._add(0, count))  # type: ignore[no-untyped-call]
        return logits

    def _add(self, forward: int, backward: int) -> None:
        self.passes = Passes(self.passes.forward + forward, self.passes.backward + backward)

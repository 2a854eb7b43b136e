"""Serving rules: predictions of a deployed network that does not know which branch to use."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

# Rules that combine all branches; always using one branch is a rule too, named after that branch.
RULES = ("mean logits", "more confident branch")


class Served(nn.Module):
    """All branches of a network behind one rule; attacks differentiate through the rule.

    ``"mean logits"`` averages the branches' logits; ``"more confident branch"`` takes, for each
    image, the logits of the branch whose largest softmax probability is higher.

    Args:
        branches: Callables, images (N, C, H, W) to logits (N, K).
        rule: One of ``RULES``.

    Shape:
        images (N, C, H, W) to logits (N, K).

    Raises:
        ValueError: On an unknown rule.

    Examples:
        >>> sure, unsure = torch.tensor([[4.0, 0.0]]), torch.tensor([[0.0, 1.0]])
        >>> branches = [lambda images: sure, lambda images: unsure]
        >>> Served(branches, "mean logits")(torch.rand(1, 3, 8, 8))
        tensor([[2.0000, 0.5000]])
        >>> Served(branches, "more confident branch")(torch.rand(1, 3, 8, 8))
        tensor([[4., 0.]])
    """

    def __init__(self, branches: Sequence[Callable[[Tensor], Tensor]], rule: str) -> None:
        super().__init__()
        if rule not in RULES:
            raise ValueError(f"unknown serving rule '{rule}'; known: {', '.join(RULES)}")
        self.rule = rule
        self.branches = tuple(branches)
        self.modules_served = nn.ModuleList(b for b in branches if isinstance(b, nn.Module))
        # Evaluation mode, so that tools that save and restore it do not change the networks' mode.
        self.training = self.modules_served.training = False

    def forward(self, images: Tensor) -> Tensor:
        logits = torch.stack([branch(images) for branch in self.branches])  # (B, N, K)
        if self.rule == "mean logits":
            return logits.mean(0)
        chosen = logits.softmax(2).amax(2).argmax(0)  # (N,)
        return logits[chosen, torch.arange(len(images), device=images.device)]

"""Running statistics as averages over batches, with torch's meaning of ``momentum``."""

from __future__ import annotations

from collections.abc import MutableMapping

from torch import Tensor


def check_momentum(momentum: float | None) -> None:
    """Raises a ValueError unless ``momentum`` is None or in [0, 1]."""
    if momentum is not None and not 0 <= momentum <= 1:
        raise ValueError(
            f"momentum must lie in [0, 1], or be None for a cumulative average, got {momentum}"
        )


def newest_weight(momentum: float | None, num_batches_tracked: Tensor) -> float:
    """Returns the weight of the newest batch, which is counted already.

    Args:
        momentum: That weight; None for the same weight for all batches.
        num_batches_tracked: Their number, ().
    """
    return 1 / num_batches_tracked.item() if momentum is None else momentum


def complete_count(state: MutableMapping[str, Tensor], prefix: str, own: Tensor | None) -> None:
    """Gives a state from before torch counted batches the layer's own count, as torch does."""
    if own is not None and f"{prefix}running_mean" in state:
        state.setdefault(f"{prefix}num_batches_tracked", own.clone())

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
    """Returns the weight of the newest batch, which has already been counted.

    Args:
        momentum: The weight; None weights all batches equally.
        num_batches_tracked: Number of batches, ().
    """
    return 1 / num_batches_tracked.item() if momentum is None else momentum


def add_missing_count(
    state: MutableMapping[str, Tensor], prefix: str, count: Tensor | None
) -> None:
    """Adds the batch count that the state of an old torch version lacks, as torch does."""
    if count is not None and f"{prefix}running_mean" in state:
        state.setdefault(f"{prefix}num_batches_tracked", count.clone())

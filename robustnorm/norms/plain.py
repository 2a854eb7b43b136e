from __future__ import annotations

from collections.abc import Sequence

from torch import nn


def bn(num_features: int, branches: Sequence[str] = ()) -> nn.BatchNorm2d:
    """Returns ``torch.nn.BatchNorm2d``: one set of statistics, one affine, no branches."""
    return nn.BatchNorm2d(num_features)

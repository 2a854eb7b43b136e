"""The named cells of the grid {shared, split} statistics x {shared, split, sandwich} affine, 2d."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from robustnorm.norms.routed import Affine, RoutedBatchNorm2d, Statistics


class _Cell(RoutedBatchNorm2d):
    """A cell of the grid: its statistics and its affine are those of the class."""

    cell: ClassVar[tuple[Statistics, Affine]]

    def __init__(
        self,
        num_features: int,
        branches: Sequence[str] = ("clean", "adv"),
        eps: float = 1e-5,
        momentum: float | None = 0.1,
    ) -> None:
        statistics, affine = self.cell
        super().__init__(
            num_features,
            branches,
            statistics=statistics,
            affine=affine,
            eps=eps,
            momentum=momentum,
        )


class _Conditional(_Cell):
    """A cell whose branches are conditions, "0", "1" and so on."""

    def __init__(
        self,
        num_features: int,
        num_conditions: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
    ) -> None:
        if num_conditions < 1:
            raise ValueError(f"num_conditions must be at least 1, got {num_conditions}")
        super().__init__(num_features, tuple(map(str, range(num_conditions))), eps, momentum)


class AuxBN(_Cell):
    """Keeps separate statistics and a separate affine for each branch (AdvProp's auxiliary BN).

    Split statistics, split affine. Arguments, shapes and errors are those of ``RoutedBatchNorm2d``.

    References:
        Xie et al., Adversarial Examples Improve Image Recognition, CVPR 2020, arXiv:1911.09665.

    Examples:
        >>> import torch
        >>> from robustnorm import route
        >>> layer = AuxBN(3)
        >>> with route(layer, "adv"):
        ...     layer(torch.rand(4, 3, 5, 5)).shape
        torch.Size([4, 3, 5, 5])
        >>> layer.num_batches_tracked.tolist()  # clean, adv
        [0, 1]
    """

    cell = "split", "split"


class SaAuxBN(_Cell):
    r"""Standardizes with the active branch's statistics, then applies a shared and a branch affine.

    .. math:: y = \gamma_i (\gamma_{sa} \frac{x - \mu_i}{\sqrt{\sigma_i^2 + \epsilon}}
        + \beta_{sa}) + \beta_i

    The shared affine sees every image; the branch affine and the statistics see one branch only.
    All scales are initialized from N(1, 0.02) and all shifts to 0, as in the authors' release.
    Arguments, shapes and errors are those of ``RoutedBatchNorm2d``.

    References:
        Gong et al., Sandwich Batch Normalization, WACV 2022, arXiv:2102.11382, Eq. 8.

    Examples:
        >>> import torch
        >>> from robustnorm import route
        >>> layer = SaAuxBN(3).eval()
        >>> with route(layer, "clean"):
        ...     layer(torch.rand(4, 3, 5, 5)).shape
        torch.Size([4, 3, 5, 5])
        >>> layer.weight.shape, layer.shared_weight.shape
        (torch.Size([2, 3]), torch.Size([3]))
    """

    cell = "split", "sandwich"


class AuxStatBN(_Cell):
    """Keeps separate statistics for each branch and one affine for all of them.

    Split statistics, shared affine: the cell of the grid that no published network uses. Arguments,
    shapes and errors are those of ``RoutedBatchNorm2d``.

    Examples:
        >>> layer = AuxStatBN(3)
        >>> layer.running_mean.shape, layer.weight.shape
        (torch.Size([2, 3]), torch.Size([3]))
    """

    cell = "split", "shared"


class CCBN(_Conditional):
    """Normalizes all samples together and gives each the affine of its condition.

    Shared statistics, split affine. A condition is a row of the affine: ``route(model, index)``
    with an int64 index (N,) chooses one per sample, a name "0", "1", ... one for the whole batch.
    Shapes and errors are those of ``RoutedBatchNorm2d``.

    References:
        Gong et al., arXiv:2102.11382, Eq. 2; de Vries et al., arXiv:1707.00683.

    Examples:
        >>> import torch
        >>> from robustnorm import route
        >>> layer = CCBN(3, num_conditions=10)
        >>> with route(layer, torch.tensor([7, 0, 7, 9])):  # a condition for each sample
        ...     layer(torch.rand(4, 3, 5, 5)).shape
        torch.Size([4, 3, 5, 5])
    """

    cell = "shared", "split"


class SaBN(_Conditional):
    """Normalizes all samples together, then applies a shared affine and the condition's affine.

    Shared statistics, sandwich affine. Conditions are those of ``CCBN``, shapes and errors those of
    ``RoutedBatchNorm2d``.

    References:
        Gong et al., Sandwich Batch Normalization, WACV 2022, arXiv:2102.11382, Eq. 3.

    Examples:
        >>> import torch
        >>> from robustnorm import route
        >>> layer = SaBN(3, num_conditions=10)
        >>> with route(layer, "7"):  # one condition for the whole batch
        ...     layer(torch.rand(4, 3, 5, 5)).shape
        torch.Size([4, 3, 5, 5])
    """

    cell = "shared", "sandwich"


def ccbn(num_features: int, branches: Sequence[str] = ("clean", "adv")) -> RoutedBatchNorm2d:
    """Returns CCBN with the branches as its conditions: shared statistics, split affine."""
    return RoutedBatchNorm2d(num_features, branches, statistics="shared", affine="split")


def sabn(num_features: int, branches: Sequence[str] = ("clean", "adv")) -> RoutedBatchNorm2d:
    """Returns SaBN with the branches as its conditions: shared statistics, sandwich affine."""
    return RoutedBatchNorm2d(num_features, branches, statistics="shared", affine="sandwich")

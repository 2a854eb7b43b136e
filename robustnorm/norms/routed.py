"""Batch normalization with statistics, affine or both per branch, for 1d, 2d and 3d.

The sandwich affine of Gong et al. collapses, gamma_i (gamma xhat + beta) + beta_i =
(gamma_i gamma) xhat + (gamma_i beta + beta_i), so every cell of the grid is one ``F.batch_norm``
call per branch and costs what BN costs.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, MutableMapping, Sequence
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from robustnorm.norms.averages import add_missing_count, check_momentum, newest_weight
from robustnorm.norms.routing import RoutedLayer
from robustnorm.norms.synchronized import batch_norm, sum_over_processes

log = logging.getLogger("robustnorm")

Statistics = Literal["shared", "split"]
Affine = Literal["shared", "split", "sandwich"]

# The authors' release draws all scales of the sandwich from N(1, 0.02), and leaves AuxBN's at 1.
_SANDWICH_STD = 0.02


class RoutedBatchNorm(RoutedLayer):
    r"""Standardizes with the active branch's statistics, then applies its affine.

    Use ``RoutedBatchNorm1d``, ``RoutedBatchNorm2d`` or ``RoutedBatchNorm3d``, which differ only in
    the shapes they accept.

    .. math:: y = a_i \frac{x - \mu_i}{\sqrt{\sigma_i^2 + \epsilon}} + b_i

    where i is the sample's branch, and :math:`(a_i, b_i)` is :math:`(\gamma, \beta)` for a shared
    affine, :math:`(\gamma_i, \beta_i)` for a split one, and
    :math:`(\gamma_i \gamma_{sa}, \gamma_i \beta_{sa} + \beta_i)` for a sandwich. Shared statistics
    drop the index of :math:`\mu` and :math:`\sigma` and cover the whole batch.

    Training uses batch statistics and updates the running statistics of the active branch;
    evaluation uses the branch's running statistics and changes nothing. Setting
    ``track_running_stats`` to False later makes training leave the running statistics alone; a
    layer built with False has none (None, as in torch) and uses batch statistics in both modes.

    A branch without images in a step gets a gradient of 0, rather than none, in its rows of the
    affine, so weight decay and momentum still move them; ``freeze`` prevents that.

    The state_dict of a batch norm without branches can be loaded: every branch starts from it, and
    a log message says so. torch's ``swa_utils.update_bn`` handles only torch's own layers and skips
    this one; ``robustnorm.studies.reestimate.reestimate`` measures a branch's statistics again.

    Args:
        num_features: C.
        branches: Names; row i of each per-branch tensor belongs to ``branches[i]``.
        statistics: One set for all branches (``"shared"``) or one per branch (``"split"``).
        affine: One for all branches, one per branch, or one per branch after a shared one
            (``"sandwich"``).
        eps: Added to the variance.
        momentum: Weight of the newest batch in the running statistics, in [0, 1]; None weights all
            batches of a branch equally.
        track_running_stats: Whether to keep running statistics.

    Shape:
        1d: (N, C) or (N, C, L); 2d: (N, C, H, W); 3d: (N, C, D, H, W); floating point to the same.
        Batch statistics need more than one value per channel in each branch.

    Raises:
        RoutingError: Outside ``route``.
        ValueError: On another rank or channel count.

    References:
        Gong et al., Sandwich Batch Normalization, WACV 2022, arXiv:2102.11382; Xie et al.,
        Adversarial Examples Improve Image Recognition, CVPR 2020, arXiv:1911.09665.

    Examples:
        >>> from robustnorm import route
        >>> layer = RoutedBatchNorm2d(4, ("clean", "adv"), statistics="split", affine="shared")
        >>> with route(layer, ("clean", "adv")):  # first half clean, second half adv
        ...     layer(torch.rand(8, 4, 5, 5)).shape
        torch.Size([8, 4, 5, 5])
    """

    weight: nn.Parameter
    bias: nn.Parameter
    running_mean: Tensor
    running_var: Tensor
    num_batches_tracked: Tensor

    # Whether batch statistics are taken over all processes; set by ``synchronize``.
    synchronized = False
    # Accepted shapes by rank.
    shapes: ClassVar[Mapping[int, str]]

    def __init__(
        self,
        num_features: int,
        branches: Sequence[str] = ("clean", "adv"),
        *,
        statistics: Statistics = "split",
        affine: Affine = "split",
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        track_running_stats: bool = True,
    ) -> None:
        super().__init__(branches)
        if statistics not in ("shared", "split"):
            raise ValueError(f"statistics must be 'shared' or 'split', got {statistics!r}")
        if affine not in ("shared", "split", "sandwich"):
            raise ValueError(f"affine must be 'shared', 'split' or 'sandwich', got {affine!r}")
        check_momentum(momentum)
        self.num_features = num_features
        self.statistics = statistics
        self.affine = affine
        self.eps = eps
        self.momentum = momentum
        self.track_running_stats = track_running_stats

        rows = len(self.branches)
        affine_shape = (num_features,) if affine == "shared" else (rows, num_features)
        self.weight = nn.Parameter(torch.empty(affine_shape))
        self.bias = nn.Parameter(torch.empty(affine_shape))
        if affine == "sandwich":
            self.shared_weight = nn.Parameter(torch.empty(num_features))
            self.shared_bias = nn.Parameter(torch.empty(num_features))
        leading = (rows,) if statistics == "split" else ()
        for name, buffer in (
            ("running_mean", torch.empty(*leading, num_features)),
            ("running_var", torch.empty(*leading, num_features)),
            ("num_batches_tracked", torch.zeros(leading, dtype=torch.int64)),
        ):
            self.register_buffer(name, buffer if track_running_stats else None)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Resets running statistics and affine to their initial values."""
        if self.has_running_statistics:
            nn.init.zeros_(self.running_mean)
            nn.init.ones_(self.running_var)
            self.num_batches_tracked.zero_()
        nn.init.zeros_(self.bias)
        if self.affine == "sandwich":
            nn.init.normal_(self.weight, 1.0, _SANDWICH_STD)
            nn.init.normal_(self.shared_weight, 1.0, _SANDWICH_STD)
            nn.init.zeros_(self.shared_bias)
        else:
            nn.init.ones_(self.weight)

    @property
    def has_running_statistics(self) -> bool:
        """Whether the layer was built with running statistics."""
        return self._buffers["running_mean"] is not None

    def effective_affine(self, row: int | Tensor) -> tuple[Tensor, Tensor]:
        """Returns the single scale and shift equivalent to the affine of the branch in ``row``.

        Args:
            row: Row of a branch, or int64 rows (N,).

        Returns:
            Weight and bias, (C,) for an int and (N, C) for a tensor.
        """
        if self.affine == "shared":
            rows = () if isinstance(row, int) else (len(row),)
            return self.weight.expand(*rows, -1), self.bias.expand(*rows, -1)
        weight, bias = self.weight[row], self.bias[row]
        if self.affine == "split":
            return weight, bias
        return weight * self.shared_weight, torch.addcmul(bias, weight, self.shared_bias)

    def branch_statistics(self, row: int) -> tuple[Tensor, Tensor, Tensor]:
        """Returns views of a branch's running mean and variance (C,) and batch count ()."""
        if self.statistics == "shared":
            return self.running_mean, self.running_var, self.num_batches_tracked
        return self.running_mean[row], self.running_var[row], self.num_batches_tracked[row]

    def forward(self, input: Tensor) -> Tensor:
        if input.dim() not in self.shapes or input.shape[1] != self.num_features:
            takes = " or ".join(self.shapes.values()).replace("C", str(self.num_features))
            raise ValueError(f"{type(self).__name__} takes {takes}, got {tuple(input.shape)}")
        selected = self.selection(len(input))
        if isinstance(selected, int):
            return self._normalize(input, selected, *self.effective_affine(selected))
        if isinstance(selected, Tensor):
            rows = selected.to(input.device)
        else:
            rows = torch.tensor(selected, device=input.device)
            rows = rows.repeat_interleave(len(input) // len(selected))
        if self.statistics == "shared":
            weight, bias = self.effective_affine(rows)
            output = self._normalize(input, 0, None, None)
            shape = (*weight.shape, *(1,) * (input.dim() - 2))
            return (output * weight.view(shape) + bias.view(shape)).to(input.dtype)
        if isinstance(selected, tuple):
            chunks = zip(input.chunk(len(selected)), selected, strict=True)
            return torch.cat([self._normalize(x, i, *self.effective_affine(i)) for x, i in chunks])
        order = rows.argsort(stable=True)
        counts = torch.bincount(rows, minlength=len(self.branches))
        # A branch with images in any process runs in all of them.
        total = sum_over_processes(counts) if self._over_processes else counts
        images: list[int] = total.tolist()
        outputs = [
            self._normalize(x, i, *self.effective_affine(i))
            for i, x in enumerate(torch.split(input[order], counts.tolist()))
            if images[i]
        ]
        return torch.cat(outputs)[order.argsort()] if outputs else input

    @property
    def _over_processes(self) -> bool:
        return self.synchronized and self.training

    def _normalize(
        self, input: Tensor, row: int, weight: Tensor | None, bias: Tensor | None
    ) -> Tensor:
        running_mean = running_var = None
        momentum = 0.0
        if self.has_running_statistics and (self.track_running_stats or not self.training):
            running_mean, running_var, num_batches_tracked = self.branch_statistics(row)
            if self.training:
                num_batches_tracked.add_(1)
                momentum = newest_weight(self.momentum, num_batches_tracked)
        if self._over_processes:
            output: Tensor = batch_norm(
                input, running_mean, running_var, weight, bias, momentum, self.eps
            )
            return output
        return F.batch_norm(
            input,
            running_mean,
            running_var,
            weight,
            bias,
            self.training or running_mean is None,
            momentum,
            self.eps,
        )

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *args: Any) -> None:
        add_missing_count(state_dict, prefix, self._buffers["num_batches_tracked"])
        self._copy_to_branches(state_dict, prefix)
        super()._load_from_state_dict(state_dict, prefix, *args)

    def _copy_to_branches(self, state: MutableMapping[str, Tensor], prefix: str) -> None:
        """Copies the state of a batch norm without branches, if it is one, to every branch."""
        tensors = {**self._parameters, **self._buffers}
        plain = {
            name: state[prefix + name]
            for name, tensor in tensors.items()
            if tensor is not None and prefix + name in state
            if state[prefix + name].shape == tensor.shape[1:] != tensor.shape
        }
        if not plain:
            return
        identity = {"weight": 1.0, "bias": 0.0, "shared_weight": 1.0, "shared_bias": 0.0}
        for name, number in identity.items():
            if name in tensors and prefix + name not in state:
                state[prefix + name] = torch.full_like(getattr(self, name), number)
        for name, value in plain.items():
            state[prefix + name] = value.expand(getattr(self, name).shape).clone()
        log.warning(
            "%s: every branch starts from the batch norm without branches that is loaded",
            prefix.rstrip(".") or type(self).__name__,
        )

    def extra_repr(self) -> str:
        return (
            f"{self.num_features}, branches={self.branches}, statistics={self.statistics}, "
            f"affine={self.affine}, eps={self.eps}, momentum={self.momentum}"
        )


class RoutedBatchNorm1d(RoutedBatchNorm):
    """``RoutedBatchNorm`` for (N, C) or (N, C, L); see there for arguments, formula and errors.

    Examples:
        >>> from robustnorm import bind
        >>> bind(RoutedBatchNorm1d(3), "adv")(torch.rand(4, 3, 5)).shape
        torch.Size([4, 3, 5])
    """

    shapes: ClassVar[Mapping[int, str]] = {2: "(N, C)", 3: "(N, C, L)"}


class RoutedBatchNorm2d(RoutedBatchNorm):
    """``RoutedBatchNorm`` for (N, C, H, W); see there for arguments, formula and errors.

    Examples:
        >>> from robustnorm import bind
        >>> bind(RoutedBatchNorm2d(3), "adv")(torch.rand(4, 3, 5, 5)).shape
        torch.Size([4, 3, 5, 5])
    """

    shapes: ClassVar[Mapping[int, str]] = {4: "(N, C, H, W)"}


class RoutedBatchNorm3d(RoutedBatchNorm):
    """``RoutedBatchNorm`` for (N, C, D, H, W); see there for arguments, formula and errors.

    Examples:
        >>> from robustnorm import bind
        >>> bind(RoutedBatchNorm3d(3), "adv")(torch.rand(4, 3, 5, 5, 5)).shape
        torch.Size([4, 3, 5, 5, 5])
    """

    shapes: ClassVar[Mapping[int, str]] = {5: "(N, C, D, H, W)"}

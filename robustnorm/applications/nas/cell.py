"""The mixed cell: the weighted sum of all operations on every edge."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from robustnorm.applications.nas.space import (
    CONV_1X1,
    CONV_3X3,
    NODES,
    POOL,
    SKIP,
    leaving,
    num_paths,
    path,
)
from robustnorm.norms.routed import Affine, RoutedBatchNorm2d
from robustnorm.settings.nas import Paths, SearchNorm

_AFFINES: dict[SearchNorm, Affine] = {"affine": "shared", "ccbn": "split", "sabn": "sandwich"}
# Standard deviation of CCBN's initial weights around 1, as in the release.
_SCALE_STD = 0.02
_EPS = 1e-5


class MixedConvolution(nn.Module):
    r"""A convolution and norm on all edges out of a node, each weighted.

    .. math:: y_e = w_e (a_{e,i} \frac{h_e - \mu}{\sqrt{\sigma^2 + \epsilon}} + b_{e,i}), \quad
        h_e = \mathrm{conv}_e(x)

    The edges out of a node share its input and the path i, so they are computed by one convolution
    and one norm; :math:`w_e` is multiplied into the affine :math:`(a, b)`, the layer's
    ``effective_affine``. Batch statistics are used in evaluation too; there are no running ones.

    Args:
        channels: C, the channels of the input and of each edge's output.
        edges: E, the number of edges.
        kernel_size: Kernel size; the padding preserves height and width.
        norm: Name of the norm; bn has no affine.
        paths: Number of affine paths for ccbn and sabn.
    """

    def __init__(
        self, channels: int, edges: int, kernel_size: int, norm: SearchNorm, paths: int
    ) -> None:
        super().__init__()
        features = edges * channels
        self.conv = nn.Conv2d(channels, features, kernel_size, padding="same", bias=False)
        self.norm: RoutedBatchNorm2d | None = None
        if norm != "bn":
            self.norm = RoutedBatchNorm2d(
                features,
                [str(i) for i in range(paths)],
                statistics="shared",
                affine=_AFFINES[norm],
                eps=_EPS,
                track_running_stats=False,
            )
        if self.norm is not None and norm == "ccbn":
            nn.init.normal_(self.norm.weight, 1.0, _SCALE_STD)

    def forward(self, input: Tensor, weights: Tensor, path: int) -> Tensor:
        """Returns the outputs of all edges.

        Args:
            input: (N, C, H, W).
            weights: Weights of the edges, (E,).
            path: Index of the affine path.

        Returns:
            (N, E C, H, W), edge by edge.
        """
        scale = weights.repeat_interleave(self.conv.out_channels // len(weights))
        if self.norm is None:
            weight, bias = scale, None
        else:
            weight, bias = self.norm.effective_affine(path)
            weight, bias = weight * scale, bias * scale
        return F.batch_norm(self.conv(input), None, None, weight, bias, training=True, eps=_EPS)


class MixedCell(nn.Module):
    r"""A cell whose edges apply the weighted sum of all operations.

    .. math:: x_i = \sum_{j < i} \sum_o w_{(i, j), o} \, o(x_j)

    over nodes j and operations o: zero, identity, ReLU-convolution-norm with 1x1 and with 3x3
    kernels, and 3x3 average pooling.

    Args:
        channels: Channels of every node.
        norm: Norm of the convolutions.
        paths: See ``num_paths``.
    """

    def __init__(self, channels: int, norm: SearchNorm, paths: Paths) -> None:
        super().__init__()
        self.paths: Paths = paths

        def convolutions(kernel_size: int) -> nn.ModuleList:
            return nn.ModuleList(
                MixedConvolution(
                    channels, len(leaving(source)), kernel_size, norm, num_paths(source, paths)
                )
                for source in range(NODES - 1)
            )

        self.conv1x1 = convolutions(1)
        self.conv3x3 = convolutions(3)

    def forward(self, input: Tensor, weights: Tensor, sampled: Sequence[int]) -> Tensor:
        """Returns the output of the last node.

        Args:
            input: Output of the first node, (N, C, H, W).
            weights: Weights of each operation on each edge, (6, 5).
            sampled: One operation per edge, which together select the affine paths.
        """
        nodes: list[Tensor | None] = [input, *[None] * (NODES - 1)]
        for source in range(NODES - 1):
            x = nodes[source]
            assert x is not None
            edges = leaving(source)
            row = path(source, sampled, self.paths)
            rectified = F.relu(x)
            convolved = self.conv1x1[source](rectified, weights[edges, CONV_1X1], row)
            convolved = convolved + self.conv3x3[source](rectified, weights[edges, CONV_3X3], row)
            pooled = F.avg_pool2d(x, 3, stride=1, padding=1, count_include_pad=False)
            parts = convolved.chunk(len(edges), dim=1)
            for target, edge, part in zip(range(source + 1, NODES), edges, parts, strict=True):
                term = part + weights[edge, SKIP] * x + weights[edge, POOL] * pooled
                previous = nodes[target]
                nodes[target] = term if previous is None else previous + term
        output = nodes[-1]
        assert output is not None
        return output


def sample_operations(alpha: Tensor, cells: int, generator: torch.Generator) -> list[list[int]]:
    """Returns one operation per edge of each cell, drawn from softmax(alpha).

    Args:
        alpha: (6, 5).
        cells: Number of cells; their operations are drawn independently.
        generator: Draws them, on the CPU.

    Returns:
        Indices into ``OPERATIONS``, by cell and edge.

    Raises:
        FloatingPointError: When alpha is not finite.
    """
    probabilities = alpha.detach().softmax(dim=1).cpu()
    if not probabilities.isfinite().all():
        raise FloatingPointError("alpha is not finite")
    drawn = torch.multinomial(probabilities, cells, replacement=True, generator=generator)
    sampled: list[list[int]] = drawn.T.tolist()
    return sampled

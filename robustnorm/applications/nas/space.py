"""NAS-Bench-201's 15,625 cells: four nodes, and one of five operations on each of six edges.

A cell is a tuple of six indices into ``OPERATIONS``, in the order of ``EDGES``.

References:
    Dong & Yang, NAS-Bench-201, ICLR 2020, arXiv:2001.00326.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from functools import cache

import numpy as np
from numpy.typing import NDArray

from robustnorm.settings.nas import Paths

OPERATIONS = ("none", "skip_connect", "nor_conv_1x1", "nor_conv_3x3", "avg_pool_3x3")
NONE, SKIP, CONV_1X1, CONV_3X3, POOL = range(len(OPERATIONS))
NODES = 4
# (target node, source node) of each edge.
EDGES = tuple((target, source) for target in range(1, NODES) for source in range(target))
CELLS = len(OPERATIONS) ** len(EDGES)

Cell = tuple[int, ...]


def to_string(cell: Sequence[int]) -> str:
    """Returns a cell in NAS-Bench-201's notation: nodes joined by "+", each ``|operation~source|``.

    Examples:
        >>> to_string((3, 1, 0, 2, 4, 1))
        '|nor_conv_3x3~0|+|skip_connect~0|none~1|+|nor_conv_1x1~0|avg_pool_3x3~1|skip_connect~2|'
    """
    nodes = [
        "".join(
            f"|{OPERATIONS[operation]}~{source}"
            for (target, source), operation in zip(EDGES, cell, strict=True)
            if target == node
        )
        for node in range(1, NODES)
    ]
    return "+".join(f"{node}|" for node in nodes)


def from_string(text: str) -> Cell:
    """Parses NAS-Bench-201's notation of a cell.

    Raises:
        ValueError: When the text is not a cell of the space.
    """
    words = [word for word in text.replace("+", "").split("|") if word]
    names = [word.partition("~")[0] for word in words]
    if len(names) == len(EDGES) and set(names) <= set(OPERATIONS):
        cell = tuple(OPERATIONS.index(name) for name in names)
        if to_string(cell) == text:
            return cell
    raise ValueError(f"a cell such as {to_string((3, 1, 0, 2, 4, 1))} is required, got '{text}'")


def number(cell: Sequence[int]) -> int:
    """Returns the index of a cell in ``all_cells``: its operations as digits in base 5.

    Examples:
        >>> number((0, 0, 0, 0, 1, 2))
        7
    """
    index = 0
    for operation in cell:
        index = index * len(OPERATIONS) + operation
    return index


@cache
def all_cells() -> NDArray[np.int64]:
    """Returns every cell, (15625, 6)."""
    cells = np.array(list(itertools.product(range(len(OPERATIONS)), repeat=len(EDGES))))
    cells.setflags(write=False)
    return cells


def leaving(source: int) -> list[int]:
    """Returns the edges out of a node, ordered by target."""
    return [edge for edge, (_, start) in enumerate(EDGES) if start == source]


def entering(target: int) -> list[int]:
    """Returns the edges into a node, ordered by source."""
    return [edge for edge, (end, _) in enumerate(EDGES) if end == target]


def num_paths(source: int, paths: Paths) -> int:
    """Returns the number of affine paths in the norms on the edges out of a node.

    Args:
        source: The node. Node 0, which no edge enters, has one path.
        paths: "paper": one path per operation of the previous layer. "release": one per tuple of
            operations on the edges into the node, 5 and then 25.

    Examples:
        >>> [num_paths(source, "paper") for source in range(3)]
        [1, 5, 5]
        >>> [num_paths(source, "release") for source in range(3)]
        [1, 5, 25]
    """
    tuples: int = len(OPERATIONS) ** len(entering(source))
    return tuples if paths == "release" else min(tuples, len(OPERATIONS))


def path(source: int, sampled: Sequence[int], paths: Paths) -> int:
    r"""Returns the index of the affine path on the edges out of a node.

    Args:
        source: The node.
        sampled: One operation per edge.
        paths: "release": :math:`\sum_k 5^k o_k` over the operations :math:`o_k` on the edges into
            the node. "paper": the operation on the edge from the previous node; the paper does not
            say which edge counts.

    Examples:
        >>> path(2, (0, 4, 3, 0, 0, 0), "release"), path(2, (0, 4, 3, 0, 0, 0), "paper")
        (19, 3)
    """
    operations = [sampled[edge] for edge in entering(source)]
    if paths == "paper":
        return operations[-1] if operations else 0
    return sum(len(OPERATIONS) ** k * operation for k, operation in enumerate(operations))

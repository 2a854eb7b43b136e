"""NAS-Bench-201's cells: four nodes, an operation on each of six edges, 15,625 of them.

A cell is a tuple of six places in ``OPERATIONS``, in the order of ``EDGES``.

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
# (node that an edge leads to, node that it leaves).
EDGES = tuple((target, source) for target in range(1, NODES) for source in range(target))
CELLS = len(OPERATIONS) ** len(EDGES)

Cell = tuple[int, ...]


def to_string(cell: Sequence[int]) -> str:
    """Returns a cell as NAS-Bench-201 writes it: nodes joined by "+", each ``|operation~source|``.

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
    """Returns the cell that NAS-Bench-201 writes so.

    Raises:
        ValueError: When the text is no cell of the space.
    """
    words = [word for word in text.replace("+", "").split("|") if word]
    names = [word.partition("~")[0] for word in words]
    if len(names) == len(EDGES) and set(names) <= set(OPERATIONS):
        cell = tuple(OPERATIONS.index(name) for name in names)
        if to_string(cell) == text:
            return cell
    raise ValueError(f"a cell such as {to_string((3, 1, 0, 2, 4, 1))} is required, got '{text}'")


def number(cell: Sequence[int]) -> int:
    """Returns the place of a cell in ``all_cells``: its operations as digits, base 5.

    Examples:
        >>> number((0, 0, 0, 0, 1, 2))
        7
    """
    place = 0
    for operation in cell:
        place = place * len(OPERATIONS) + operation
    return place


@cache
def all_cells() -> NDArray[np.int64]:
    """Returns every cell, (15625, 6)."""
    cells = np.array(list(itertools.product(range(len(OPERATIONS)), repeat=len(EDGES))))
    cells.setflags(write=False)
    return cells


def leaving(source: int) -> list[int]:
    """Returns the edges that leave a node, in the order of the nodes that they lead to."""
    return [edge for edge, (_, start) in enumerate(EDGES) if start == source]


def entering(target: int) -> list[int]:
    """Returns the edges that lead to a node, in the order of the nodes that they leave."""
    return [edge for edge, (end, _) in enumerate(EDGES) if end == target]


def num_paths(source: int, paths: Paths) -> int:
    """Returns how many affine paths the norms on the edges out of a node have.

    Args:
        source: The node. No edge leads to node 0, whose edges have one path.
        paths: "paper": one for each operation of the previous layer. "release": one for each tuple
            of operations on the edges into the node, 5, then 25.

    Examples:
        >>> [num_paths(source, "paper") for source in range(3)]
        [1, 5, 5]
        >>> [num_paths(source, "release") for source in range(3)]
        [1, 5, 25]
    """
    tuples: int = len(OPERATIONS) ** len(entering(source))
    return tuples if paths == "release" else min(tuples, len(OPERATIONS))


def path(source: int, sampled: Sequence[int], paths: Paths) -> int:
    r"""Returns the affine path on the edges out of a node.

    Args:
        source: The node.
        sampled: An operation for each of the six edges.
        paths: "release": :math:`\sum_k 5^k o_k` over the operations :math:`o_k` on the edges into
            the node. "paper", which does not say which of two edges counts: the operation on the
            edge from the node just before.

    Examples:
        >>> path(2, (0, 4, 3, 0, 0, 0), "release"), path(2, (0, 4, 3, 0, 0, 0), "paper")
        (19, 3)
    """
    operations = [sampled[edge] for edge in entering(source)]
    if paths == "paper":
        return operations[-1] if operations else 0
    return sum(len(OPERATIONS) ** k * operation for k, operation in enumerate(operations))

"""A search without gradients, for images on which gradients lead nowhere."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from robustnorm.attacks.logits import Model
from robustnorm.attacks.losses import lead
from robustnorm.attacks.threat_model import widest

# Fraction of the image that a square covers at first, and the queries of 10,000 at which it halves.
_SHARE, _HALVED = 0.8, (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)
# Smallest side of an L2 square, which holds two hills; number of tiles along a side at the start.
_LEAST, _TILES = 3, 5
_TINY = 1e-12

# (query, changes (N, C, H, W)) to new changes within the ball.
_Move = Callable[[int, Tensor], Tensor]


@torch.no_grad()
def blind_search(
    model: Model,
    images: Tensor,
    labels: Tensor,
    *,
    epsilon: float,
    threat_model: str,
    queries: int,
) -> Tensor:
    """Changes ever smaller squares of the image and keeps changes that bring a wrong class nearer.

    The squares are the same for every image and every call, so an image's result depends only on
    the image. It leaves the search when it is misclassified.

    In an Linf ball, a square gets one color, with values of epsilon or -epsilon. In an L2 ball, it
    gets two hills, one up and one down; their length is what another square gives up plus what
    clipping to [0, 1] has left unused.

    Args:
        model: Images to logits.
        images: (N, ...), floating point in [0, 1].
        labels: int64 (N,).
        epsilon: Radius of the ball.
        threat_model: ``"linf"`` or ``"l2"``.
        queries: Largest number of forward passes per image.

    Returns:
        The points of the ball at which a wrong class came nearest to the label.

    References:
        Andriushchenko et al., Square Attack, ECCV 2020, arXiv:1912.00049, Algorithms 1 to 3. Here
        the squares are drawn once for all images.
    """
    best = images.clone()
    if images.dim() != 4:
        images = images.reshape(len(images), 1, 1, -1)
    generator = torch.Generator().manual_seed(0)
    move = {"linf": _colors, "l2": _hills}[threat_model](images, epsilon, queries, generator)
    changes = torch.zeros_like(images)
    leads = torch.full_like(labels, -torch.inf, dtype=images.dtype)
    rows = torch.arange(len(images), device=labels.device)
    for query in range(queries):
        if not len(rows):
            break
        tried = (images[rows] + move(query, changes[rows])).clamp(0, 1)
        found = tried.reshape(-1, *best.shape[1:])
        logits = model(found)
        new_leads = lead(logits, labels[rows]).to(leads)
        better = new_leads > leads[rows]
        improved = rows[better]
        leads[improved], best[improved] = new_leads[better], found[better]
        changes[improved] = tried[better] - images[improved]
        rows = rows[logits.argmax(1) == labels[rows]]
    return best


def _colors(images: Tensor, epsilon: float, queries: int, generator: torch.Generator) -> _Move:
    """Returns the moves in an Linf ball: vertical stripes, then squares of one color."""
    _, channels, height, width = images.shape

    def move(query: int, changes: Tensor) -> Tensor:
        if not query:
            stripes = epsilon * _signs((1, channels, 1, width), generator)
            return stripes.to(images).expand_as(changes)
        side = _side(query, queries, height * width)
        rows, columns = (_draw_range(size, side, generator) for size in (height, width))
        changed = changes.clone()
        color = epsilon * _signs((1, channels, 1, 1), generator)
        changed[:, :, rows, columns] = color.to(images)
        return changed

    return move


def _hills(images: Tensor, epsilon: float, queries: int, generator: torch.Generator) -> _Move:
    """Returns the moves in an L2 ball: tiles of hills, then two hills in place of a square."""
    _, channels, height, width = images.shape
    least = min(_LEAST, max(height, width) // 2)

    def start() -> Tensor:
        change = torch.zeros(1, channels, height, width, device="cpu")
        tall, wide = (max(1, size // _TILES) for size in (height, width))
        for top in range(0, height, tall):
            for left in range(0, width, wide):
                tile = change[:, :, top : top + tall, left : left + wide]
                tile += _hill(*tile.shape[2:]) * _signs((1, channels, 1, 1), generator)
        return change

    def move(query: int, changes: Tensor) -> Tensor:
        if not query:
            changed = start().to(images).expand_as(changes)
        else:
            side = max(least, _side(query, queries, height * width) // 2 * 2 + 1)
            to, source = (
                (_draw_range(height, side, generator), _draw_range(width, side, generator))
                for _ in range(2)
            )
            tall, wide = changes[(..., *to)].shape[2:]
            hills = _two_hills(tall, wide, generator)
            hills = (hills * _signs((1, channels, 1, 1), generator)).to(images)
            freed = changes.clone()
            freed[(..., *to)] = freed[(..., *source)] = 0
            unused = (epsilon**2 - changes.square().sum((1, 2, 3), keepdim=True)).clamp_min(0)
            gained = (changes.square() - freed.square()).sum((2, 3), keepdim=True)
            hills = _unit(hills + _unit(changes[(..., *to)], (2, 3)), (2, 3))
            freed[(..., *to)] = hills * (gained + unused / channels).sqrt()
            changed = freed
        return epsilon * _unit(changed, (1, 2, 3))

    return move


def _side(query: int, queries: int, pixels: int) -> int:
    """Returns the side of the square that a query changes, in pixels."""
    halved = sum(10_000 * query > at * queries for at in _HALVED)
    return max(1, round(math.sqrt(_SHARE * 0.5**halved * pixels)))


def _draw_range(size: int, side: int, generator: torch.Generator) -> slice:
    side = min(side, size)
    begin = int(torch.randint(size - side + 1, (), generator=generator, device="cpu"))
    return slice(begin, begin + side)


def _two_hills(height: int, width: int, generator: torch.Generator) -> Tensor:
    """Returns a hill and its negative, side by side or stacked, with a joint length of 1."""
    tossed = torch.randint(2, (), generator=generator, device="cpu")
    upright = (bool(tossed) and height > 1) or width == 1
    size, across = (height, width) if upright else (width, height)
    both = torch.cat([_hill(size // 2, across), -_hill(size - size // 2, across)])
    return _unit(both if upright else both.T, (0, 1))


def _hill(height: int, width: int) -> Tensor:
    """Returns a hill of nested rectangles: the k-th from the middle adds 1 / k^2."""
    down, right = (torch.arange(size, device="cpu") - size // 2 for size in (height, width))
    distance = torch.maximum(down.abs()[:, None], right.abs())
    terms = torch.arange(1, max(height, width) + 2, device="cpu").float().pow(-2)
    sums = terms.flip(0).cumsum(0).flip(0)
    return sums[distance]


def _unit(values: Tensor, dims: tuple[int, ...]) -> Tensor:
    exact = widest(values.device)
    norms: Tensor = torch.linalg.vector_norm(values, dim=dims, keepdim=True, dtype=exact)
    return (values / norms.clamp_min(_TINY)).to(values.dtype)


def _signs(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    return 2.0 * torch.randint(2, shape, generator=generator, device="cpu") - 1

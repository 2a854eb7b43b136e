"""The worst case over a portfolio of attacks, each run on the images that still withstand."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from robustnorm.attacks.blind import blind_search
from robustnorm.attacks.contract import traits
from robustnorm.attacks.inputs import admit
from robustnorm.attacks.logits import InputError, Model, gradient_of
from robustnorm.attacks.losses import lead, logit_of
from robustnorm.attacks.threat_model import threat_model as find_threat_model

log = logging.getLogger("robustnorm")

# Wrong classes among which targets are chosen, as many as AutoAttack targets.
_CANDIDATES = 9
# An image is restarted if a wrong class has come within this fraction of its first distance to the
# label's logit. The fraction shrinks with each restart: most images that a restart breaks had come
# within a fiftieth, and the others would take most of the passes.
_NEAR, _NEARER = 0.3, 3
# Restarts: size of the first step, in radii of the ball; classes that some of them target.
_WIDER, _LIKELIEST = 2.0, 3
# Restarts that climb side by side, since few images restart, and a small batch takes hardly longer
# than one image. More would often continue where one has already broken the image.
_AT_ONCE = 6
# As an aim: the nearest wrong class, chosen anew at each iterate.
_NEAREST = -1
# A gradient misleads if all runs together gain less than this fraction of what it promised. On
# honest networks they gain at least a third.
_MISLEADS = 0.1
# Keeps a quotient finite if a gradient is zero everywhere.
_TINY = 1e-30


@traits(per_image=True, blind=True)
def worst_case(
    model: Model,
    images: Tensor,
    labels: Tensor,
    *,
    epsilon: float,
    threat_model: str = "linf",
    generator: torch.Generator | None = None,
    steps: int = 12,
    targets: int = 5,
    restarts: int = 42,
    queries: int = 5000,
) -> Tensor:
    """Attacks each image with a portfolio of attacks until one breaks it.

    Every attack ascends the difference between a wrong class's logit and the label's, whose
    gradient sign does not depend on the scale of the logits. The attacks run in this order, with
    step sizes that fall linearly from epsilon:

    1. from the image, towards the most likely wrong class;
    2. from the image, towards other wrong classes, first those whose difference is small relative
       to its slope; from the second such class on, only on images to which some wrong class
       has come within a half, a third, ... of its first distance;
    3. from other points of the ball, the same for all images, mostly corners, and mostly towards
       the nearest wrong class, with a first step of twice epsilon; only on images that came near
       another class, and with each restart on nearer ones;
    4. random search by squares; only on images whose gradients mislead: these gained less than a
       tenth of what their gradient promised.

    A network whose logits have no gradient with respect to the images is searched only by squares,
    and a warning is logged.

    From the third class of step 2 on, all aims climb side by side, and in step 3 six restarts at a
    time, in batches of at most N. An image leaves at its first misclassified iterate, so most of
    the work is spent on those that withstand. No random numbers are drawn from ``generator`` or a
    global state: an image's result depends only on the network and the image. On a CPU the last
    bits of a network's logits may depend on the size of its batch; evaluations therefore use few
    different sizes.

    Args:
        model: Images to logits; its mode and branch are the caller's choice.
        images: (N, C, H, W), floating point in [0, 1].
        labels: int64 (N,).
        epsilon: Radius of the ball on the [0, 1] scale; 0 returns the images.
        threat_model: ``"linf"`` or ``"l2"``.
        generator: Unused; part of the contract.
        steps: Gradient steps per run.
        targets: Number of wrong classes to target, or all if there are fewer.
        restarts: Runs from other points of the ball, for the images nearest to another class.
        queries: Forward passes of the random search, per image that needs it.

    Returns:
        Adversarial images, detached, of the images' shape and dtype: misclassified where an attack
        succeeded, elsewhere the iterate at which a wrong class came closest to the label. Images
        that were misclassified from the start are returned unchanged.

    Raises:
        ValueError: On inputs out of range, fewer than one step or target, or a negative number.

    References:
        Croce & Hein, ICML 2020, arXiv:2003.01690, for one target after the other on survivors;
        Melamed et al., MALT, 2024, arXiv:2407.02240, for their order; Carlini & Wagner, 2017,
        arXiv:1608.04644, for the difference of logits; Andriushchenko et al., ECCV 2020,
        arXiv:1912.00049, for the search without gradients.

    Examples:
        >>> model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 3))
        >>> images, labels = torch.rand(4, 3, 2, 2), torch.tensor([0, 1, 2, 0])
        >>> adv_images = worst_case(model, images, labels, epsilon=8 / 255)
        >>> bool(((adv_images - images).abs() <= 8 / 255 + 1e-6).all())
        True
    """
    given = admit(model, images, labels, epsilon, threat_model, blind=True)
    if min(steps, targets) < 1 or min(restarts, queries) < 0:
        raise InputError(
            "steps and targets must be at least 1, restarts and queries at least 0, got "
            f"{steps}, {targets}, {restarts} and {queries}"
        )
    with given.attacking():
        search = _Search(
            given.model, given.images, given.labels, given.epsilon, threat_model, steps
        )
        if search.is_blind:
            log.warning(
                "the network's logits have no gradient with respect to the images: worst searches "
                "without gradients, which finds less than those of a differentiable approximation"
            )
        else:
            search.from_the_image(targets)
        misled = search.misled()
        if not search.is_blind:
            search.from_other_points(restarts)
        search.without_gradients(misled, queries)
    return given.result(search.best)


class _Forward(NamedTuple):
    """Logits of images, and the gradient of the ascended difference, zero if there is none."""

    logits: Tensor
    gradient: Tensor


class _Climb(NamedTuple):
    """Climbs of M different images, one of each, towards wrong classes.

    Attributes:
        rows: Indices of the images, int64 (M,).
        aims: A class for each, or ``_NEAREST``, int64 (M,).
        starts: Points of the images' balls, (M, C, H, W).
    """

    rows: Tensor
    aims: Tensor
    starts: Tensor


class _Search:
    """Images on their way through the portfolio.

    Attributes:
        best: The point of each image's ball at which a wrong class came nearest to the label, or
            the first misclassified one.
        standing: Whether the image still withstands, bool (N,).
        is_blind: Whether the logits have no gradient with respect to the images.
    """

    def __init__(
        self,
        model: Model,
        images: Tensor,
        labels: Tensor,
        epsilon: float,
        threat_model: str,
        steps: int,
    ) -> None:
        self._model, self._images, self._labels = model, images, labels
        self._epsilon, self._steps = epsilon, steps
        self._threat_model, self._ball = threat_model, find_threat_model(threat_model)
        self.is_blind = False
        self._first = self._forward(images, labels, torch.full_like(labels, _NEAREST))
        logits, gradient = self._first
        self.best, self.standing = images.clone(), logits.argmax(1) == labels
        self._start = lead(logits, labels)  # how far the nearest wrong class is, below 0
        self._leads = self._start.clone()
        moved = images + self._ball.ascend(gradient, epsilon)
        step = self._ball.project(moved, images, epsilon) - images
        self._promised = (gradient * step).flatten(1).sum(1)

    def from_the_image(self, targets: int) -> None:
        """Climbs from the image towards wrong classes in turn."""
        wrong = _wrong(self._first.logits, self._labels)
        rows = self._near()
        first = _Forward(*(values[rows] for values in self._first))
        self._climb([_Climb(rows, wrong.argmax(1)[rows], self._images[rows])], first)
        others = min(targets, wrong.shape[1] - 1) - 1
        rows = self._near()
        if not others or not len(rows):
            return
        aims = torch.zeros_like(wrong[:, :others], dtype=torch.int64)
        aims[rows] = self._nearest(rows, wrong[rows], others)
        self._climb([_Climb(rows, aims[rows, 0], self._images[rows])])
        near = [self._near(1 / number) for number in range(2, others + 1)]
        climbs = [
            _Climb(rows, aims[rows, number], self._images[rows])
            for number, rows in enumerate(near, start=1)
        ]
        if climbs:
            self._climb(climbs)

    def misled(self) -> Tensor:
        """Returns whether an image's gradients led nowhere, bool (N,)."""
        return (self._leads - self._start) <= _MISLEADS * self._promised

    def from_other_points(self, restarts: int) -> None:
        """Climbs from other points of the ball, in the same directions for every image.

        Starts in turn from a corner, an inner point, a corner, and a corner towards one of the
        likeliest wrong classes; the first three climb towards the nearest wrong class.
        """
        generator = torch.Generator().manual_seed(0)
        wrong = _wrong(self._first.logits, self._labels)
        likeliest = wrong.topk(min(_LIKELIEST, wrong.shape[1] - 1), dim=1).indices
        for begin in range(0, restarts, _AT_ONCE):
            climbs = []
            for done in range(begin, min(begin + _AT_ONCE, restarts)):
                rows = self._near(_NEAR * (1 - done / restarts) ** _NEARER)
                shape = 1, *self._images.shape[1:]
                noise = 2 * torch.rand(shape, generator=generator, device="cpu") - 1
                kind, noise = done % 4, noise.to(self._images)
                inner = self._epsilon * noise
                change = inner if kind == 1 else self._ball.ascend(noise, self._epsilon)
                images = self._images[rows]
                starts = self._ball.project(images + change, images, self._epsilon)
                aims = likeliest[rows, done // 4 % likeliest.shape[1]]
                if kind != 3:
                    aims = torch.full_like(aims, _NEAREST)
                climbs.append(_Climb(rows, aims, starts))
            self._climb(climbs, widest=_WIDER)

    def without_gradients(self, misled: Tensor, queries: int) -> None:
        """Searches without gradients around images whose gradients mislead."""
        rows = (self.standing & misled).nonzero().flatten()
        if not self._epsilon or not queries or not len(rows):
            return
        images, labels = self._images[rows], self._labels[rows]
        adv_images = blind_search(
            self._model,
            images,
            labels,
            epsilon=self._epsilon,
            threat_model=self._threat_model,
            queries=queries,
        )
        with torch.no_grad():
            self._keep(rows, adv_images, self._model(adv_images))

    def _near(self, fraction: float = 1.0) -> Tensor:
        """Returns the rows that stand and came within a fraction of their first distance."""
        return (self.standing & (self._leads >= fraction * self._start)).nonzero().flatten()

    def _climb(
        self, climbs: Sequence[_Climb], first: _Forward | None = None, *, widest: float = 1.0
    ) -> None:
        """Climbs side by side; an image leaves all its climbs when one of them breaks it.

        Args:
            climbs: Where the climbs start, and where to.
            first: Logits and gradients at the starts, if known.
            widest: Size of the first step, in radii of the ball.
        """
        rows, aims, adv_images = map(torch.cat, zip(*climbs, strict=True))
        for step in range(self._steps + 1):
            if not len(rows):
                return
            labels = self._labels[rows]
            if step == self._steps:  # the last iterates are only classified
                with torch.no_grad():
                    (logits,) = self._in_parts(lambda part: [self._model(part)], adv_images)
                self._keep(rows, adv_images, logits)
                return
            if first is None:
                first = _Forward(*self._in_parts(self._forward, adv_images, labels, aims))
            self._keep(rows, adv_images, first.logits)
            standing = self.standing[rows]
            rows, aims, adv_images = rows[standing], aims[standing], adv_images[standing]
            size = widest * self._epsilon * (1 - step / self._steps)
            moved = adv_images + self._ball.ascend(first.gradient[standing], size)
            adv_images, first = self._ball.project(moved, self._images[rows], self._epsilon), None

    def _keep(self, rows: Tensor, adv_images: Tensor, logits: Tensor) -> None:
        """Keeps each image's best iterate so far: the first misclassified one, or the nearest."""
        labels = self._labels[rows]
        broken = logits.argmax(1) != labels
        leads = lead(logits, labels).masked_fill(broken, torch.inf)
        count = len(self.standing)
        most = leads.new_full((count,), -torch.inf).scatter_reduce(0, rows, leads, "amax")
        better = (leads == most[rows]) & (leads > self._leads[rows])
        entries = better.nonzero().flatten()  # several of an image where they are equally near
        first = rows.new_full((count,), len(rows)).scatter_reduce(0, rows[entries], entries, "amin")
        entries = first[first < len(rows)]
        rows = rows[entries]
        self.best[rows], self._leads[rows] = adv_images[entries], leads[entries]
        self.standing[rows[broken[entries]]] = False

    def _in_parts(self, function: Callable[..., Sequence[Tensor]], *values: Tensor) -> list[Tensor]:
        """Calls a function on as many rows at once as there are images, to save memory."""
        parts = zip(*(torch.split(value, len(self._images)) for value in values), strict=True)
        results = [function(*part) for part in parts]
        return [torch.cat(result) for result in zip(*results, strict=True)]

    def _forward(self, adv_images: Tensor, labels: Tensor, aims: Tensor) -> _Forward:
        with torch.enable_grad():
            leaf = adv_images.detach().requires_grad_()
            logits = self._model(leaf)
            aims = torch.where(aims == _NEAREST, _wrong(logits, labels).argmax(1), aims)
            leads = logit_of(logits, aims) - logit_of(logits, labels)
            gradient = gradient_of(leads.sum(), leaf)
        if gradient is None:
            self.is_blind, gradient = True, torch.zeros_like(leaf)
        return _Forward(logits.detach(), gradient.detach())

    def _nearest(self, rows: Tensor, wrong: Tensor, count: int) -> Tensor:
        """Returns the nearest wrong classes after the likeliest, nearest first, int64 (N, count).

        The distance of a class is the difference between the label's logit and its own, divided by
        the gain that a step of size 1 promises.
        """
        most = min(max(_CANDIDATES, count + 1), wrong.shape[1] - 1)
        candidates = wrong.topk(most, dim=1).indices[:, 1:]
        images, labels = self._images[rows], self._labels[rows]
        gaps = []
        with torch.enable_grad():
            leaf = images.detach().requires_grad_()
            logits = self._model(leaf)
            for candidate in candidates.unbind(1):
                leads = logit_of(logits, candidate) - logit_of(logits, labels)
                gradient = gradient_of(leads.sum(), leaf, keep_graph=True)
                if gradient is None:  # for this class only
                    gradient = torch.zeros_like(leaf)
                slope = (gradient * self._ball.ascend(gradient, 1.0)).flatten(1).sum(1)
                gaps.append(leads.detach() / slope.clamp_min(_TINY))
        order = torch.stack(gaps, 1).topk(count, dim=1).indices
        return candidates.gather(1, order)


def _wrong(logits: Tensor, labels: Tensor) -> Tensor:
    """Returns the logits with those of the labels at minus infinity."""
    return logits.scatter(1, labels[:, None], -torch.inf)

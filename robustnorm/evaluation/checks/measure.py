"""Collects the evidence for the checks: verdicts per branch under many kinds of attack."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from robustnorm.attacks import autoattack, fgsm, torchattack
from robustnorm.attacks.logits import attach_gradient
from robustnorm.attacks.threat_model import threat_model as find_threat_model
from robustnorm.evaluation.attack import attack_chunk
from robustnorm.evaluation.checks.forwards import (
    Evidence,
    copy_difference,
    in_unit_interval,
    input_scale_evidence,
    logit_changes,
    usable_gradients,
)
from robustnorm.evaluation.search import Branch, Search
from robustnorm.records.journal import Key
from robustnorm.settings.attack_names import parse_attacks
from robustnorm.system.precision import exact_float32

TierName = Literal["quick", "full"]
RESTARTS = 5


class Tier(NamedTuple):
    """How much is measured.

    Args:
        images: Largest number of images.
        radii: Radii of the curve in 255ths of the [0, 1] scale; for L2, in eighths of epsilon.
        draws: Number of random points on the surface of the ball around each image.
        queries: Number of queries for torchattacks' Square; None runs AutoAttack's Square.
        readouts: Number of images in the binarization test.
        inner: Number of points around each of them that the test labels as unperturbed.
    """

    images: int
    radii: tuple[int, ...]
    draws: int
    queries: int | None
    readouts: int
    inner: int


TIERS = {
    "quick": Tier(images=100, radii=(0, 8, 24, 64), draws=10, queries=100, readouts=20, inner=49),
    "full": Tier(
        images=1000,
        radii=(0, 1, 2, 4, 8, 12, 16, 24, 32, 48, 64),
        draws=100,
        queries=None,
        readouts=100,
        inner=199,
    ),
}


class Watched(nn.Module):
    """Scores like a branch and records whether the images it receives are valid perturbations.

    Args:
        score: Images to logits.
    """

    def __init__(self, score: nn.Module) -> None:
        super().__init__()
        self.score = score
        self._watched: tuple[Tensor, Search] | None = None
        self.valid: Tensor | None = None

    def watch(self, images: Tensor, search: Search) -> None:
        """Starts comparing the images to be scored with these."""
        self._watched, self.valid = (images, search), None

    def forward(self, images: Tensor) -> Tensor:
        if self._watched is not None:
            around, search = self._watched
            ball = find_threat_model(search.threat_model)
            # Whole chunks are scored: the last image is repeated.
            if len(images) < len(around):
                raise MemoryError("a split chunk cannot be compared with the images")
            valid = ball.contains(images[: len(around)], around, search.epsilon)
            self.valid = valid if self.valid is None else self.valid & valid
        logits: Tensor = self.score(images)
        return logits

    def stop(self) -> Tensor:
        """Stops watching; returns whether each image was always valid, bool (N,)."""
        assert self.valid is not None  # every attack scores its images
        self._watched = None
        return self.valid


def prepare(branch: Branch) -> tuple[Branch, Watched]:
    """Returns the branch with a watched score and with zeros in place of missing gradients."""
    score = Watched(branch.score)
    return Branch(branch.name, score, _finite_gradients(branch.standin)), score


def _finite_gradients(model: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """Replaces missing gradients, and those that are not finite, by zero."""

    def tied(images: Tensor) -> Tensor:
        given = images.clone()
        if given.requires_grad:
            given.register_hook(_zero_unless_finite)  # type: ignore[no-untyped-call]
        return attach_gradient(model(given), images)

    return tied


def _zero_unless_finite(gradient: Tensor) -> Tensor:
    finite = gradient.flatten(1).isfinite().all(1)
    return torch.where(finite.view(-1, *[1] * (gradient.dim() - 1)), gradient, 0.0)


def attack_radius(entry: int, search: Search) -> float:
    """Returns the attack radius of an entry of ``Tier.radii``."""
    return entry / 255 if search.threat_model == "linf" else entry / 8 * search.epsilon


def radius_text(entry: int, search: Search) -> str:
    """Returns the radius as ``CurvePoint.epsilon`` writes it."""
    if not entry:
        return "0"
    return (
        f"{entry}/255" if search.threat_model == "linf" else f"{attack_radius(entry, search):.4g}"
    )


def measure(
    attacked: Sequence[tuple[Branch, Watched]],
    images: Tensor,
    labels: Tensor,
    image_ids: Tensor,
    search: Search,
    tier: Tier,
    generator: torch.Generator,
    on_attack: Callable[[], object],
) -> dict[str, Evidence]:
    """Returns the evidence on each branch from one chunk of images.

    Args:
        attacked: From ``prepare``.
        images: (N, C, H, W), floating point in [0, 1], on the network's device.
        labels: int64 (N,), on the network's device.
        image_ids: int64 (N,), on the CPU.
        search: The attack to check, with one number of steps. Each branch is measured in the ball
            of its own attack; for transfer the other branches are attacked in the same ball.
        tier: How much to measure.
        generator: Draws the random points and seeds Square, on the CPU.
        on_attack: Called after each of the ``count_attacks`` attacks.
    """
    searches = [search.for_branch(branch.name) for branch, _ in attacked]
    evidence: dict[str, Evidence] = {}
    for shared in _distinct(searches):
        measured = [pair for pair, its in zip(attacked, searches, strict=True) if its == shared]
        evidence |= _measure_within(
            shared, measured, attacked, images, labels, image_ids, tier, generator, on_attack
        )
    return evidence


def _measure_within(
    search: Search,
    measured: Sequence[tuple[Branch, Watched]],
    attacked: Sequence[tuple[Branch, Watched]],
    images: Tensor,
    labels: Tensor,
    image_ids: Tensor,
    tier: Tier,
    generator: torch.Generator,
    on_attack: Callable[[], object],
) -> dict[str, Evidence]:
    """Returns the evidence on the branches that share one ball; all branches are attacked in it."""
    everyone, (steps,) = [branch for branch, _ in attacked], search.steps
    branches = [branch for branch, _ in measured]
    evidence: dict[str, Evidence] = {branch.name: {} for branch in branches}

    adv_images: dict[Key, Tensor] = {}

    def attack(
        name: str, changed: Search, rule: str = "any", of: Sequence[Branch] = branches
    ) -> dict[Key, Tensor]:
        adv_images.clear()
        outcomes = attack_chunk(of, images, labels, image_ids, changed, adv_images)
        for branch in branches:
            key = Key(f"pgd-{max(changed.steps)}", rule, branch.name, branch.name)
            evidence[branch.name][name] = outcomes[key].correct
        on_attack()
        return {key: outcome.correct for key, outcome in outcomes.items()}

    for _, watched in measured:
        watched.watch(images, search)
    first = attack("longer", search._replace(steps=(steps, 2 * steps)), of=everyone)
    attacked_images = {
        branch.name: adv_images[Key(f"pgd-{2 * steps}", "final", branch.name, branch.name)]
        for branch in branches
    }
    for restart in range(1, RESTARTS):
        attack(f"restart {restart}", search._replace(seed=search.seed + restart))
    for branch, watched in measured:
        evidence[branch.name]["valid"] = watched.stop()
    for entry in tier.radii:
        if entry:
            attack(f"radius {entry}", _scaled(search, attack_radius(entry, search)))
        else:
            attack("radius 0", search._replace(epsilon=0.0, steps=(1,)), "final")
    everything = 1.0 if search.threat_model == "linf" else images[0].numel() ** 0.5
    attack("unbounded", _scaled(search, everything))
    (by_margin,) = parse_attacks([f"pgd-{2 * steps}-margin"])
    margins = attack_chunk(branches, images, labels, image_ids, search, attack=by_margin)
    on_attack()

    for branch in branches:
        found = evidence[branch.name]
        found["clean"] = first[Key("none", "final", branch.name, branch.name)]
        key = Key(by_margin.name, "final", branch.name, branch.name)
        found["margin"] = margins[key].correct
        found["copy"] = copy_difference(branch, torch.cat([images, attacked_images[branch.name]]))
        found["pgd"] = first[Key(f"pgd-{steps}", "any", branch.name, branch.name)]
        for other in everyone:
            if other is not branch:
                key = Key(f"pgd-{2 * steps}", "final", other.name, branch.name)
                found[f"from {other.name}"] = first[key]
        found |= _without_pgd(branch, images, labels, search, tier, generator)
        on_attack()
    return evidence


def count_attacks(tier: Tier, search: Search, branches: Sequence[str]) -> int:
    """Returns the number of attacks that ``measure`` runs on a chunk."""
    balls = len(_distinct([search.for_branch(branch) for branch in branches]))
    return balls * (2 + RESTARTS + len(tier.radii)) + len(branches)


def _distinct(searches: Sequence[Search]) -> list[Search]:
    return [search for n, search in enumerate(searches) if search not in searches[:n]]


def _scaled(search: Search, epsilon: float) -> Search:
    """Returns the settings at another radius, with the step size in proportion."""
    step_size = search.step_size * epsilon / search.epsilon
    return search._replace(epsilon=epsilon, step_size=step_size)


def _without_pgd(
    branch: Branch,
    images: Tensor,
    labels: Tensor,
    search: Search,
    tier: Tier,
    generator: torch.Generator,
) -> Evidence:
    fast = fgsm(
        branch.standin, images, labels, epsilon=search.epsilon, threat_model=search.threat_model
    )
    noise = torch.ones_like(labels, dtype=torch.bool)
    for _ in range(tier.draws):
        noise &= _correct(branch, surface(images, search, generator), labels)
    square = images.clone()
    robust = _correct(branch, images, labels).nonzero().flatten()
    if len(robust):
        square[robust] = _square(branch, images[robust], labels[robust], search, tier, generator)
    return {
        "fgsm": _correct(branch, fast, labels),
        "noise": noise,
        "square": _correct(branch, square, labels),
        # PGD's copy may have gradients where the network itself, which AutoAttack uses, has none.
        "gradient": usable_gradients(branch.standin, images, labels)
        & usable_gradients(_finite_gradients(branch.score), images, labels),
        "bounded": in_unit_interval(branch, images),
        **input_scale_evidence(branch, images),
        **logit_changes(branch, images),
    }


def surface(images: Tensor, search: Search, generator: torch.Generator) -> Tensor:
    """Draws a random point on the surface of the ball around each image; for Linf, a corner."""
    ball = find_threat_model(search.threat_model)
    noise = torch.randn(
        images.shape, generator=generator, dtype=images.dtype, device=generator.device
    ).to(images.device)
    return ball.project(images + ball.ascend(noise, search.epsilon), images, search.epsilon)


def _square(
    branch: Branch,
    images: Tensor,
    labels: Tensor,
    search: Search,
    tier: Tier,
    generator: torch.Generator,
) -> Tensor:
    """Attacks images that are all classified correctly, without gradients."""

    def score(images: Tensor) -> Tensor:
        logits: Tensor = branch.score(images)
        return logits.float()  # the libraries' precision

    if tier.queries is None:
        return autoattack(
            score,
            images,
            labels,
            epsilon=search.epsilon,
            threat_model=search.threat_model,
            generator=generator,
            attacks_to_run=["square"],
        )
    return torchattack(
        score,
        images,
        labels,
        name="Square",
        norm={"linf": "Linf", "l2": "L2"}[search.threat_model],
        n_queries=tier.queries,
        epsilon=search.epsilon,
        threat_model=search.threat_model,
        generator=generator,
    )


@torch.no_grad()
@exact_float32()
def _correct(branch: Branch, images: Tensor, labels: Tensor) -> Tensor:
    correct: Tensor = branch.score(images).argmax(1) == labels
    return correct

"""One chunk of images attacked and scored: a fast copy searches, the network itself decides.

The search climbs the gradients of a folded, fused copy of the branch, in channels-last layout and
in bfloat16 if asked for. Every verdict is then the prediction of the network itself in float32.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from robustnorm.attacks import pgd
from robustnorm.attacks.threat_model import threat_model as find_threat_model
from robustnorm.evaluation.chunks import CHUNK as CHUNK
from robustnorm.evaluation.chunks import Outcome as Outcome
from robustnorm.evaluation.chunks import (
    choose,
    first,
    join,
    judge,
    place,
    split_filled,
    whole_chunks,
)
from robustnorm.models.serving import RULES, Served
from robustnorm.models.surgery import fold
from robustnorm.norms.routing import bind, branches_of
from robustnorm.records.journal import Key
from robustnorm.records.record import SINGLE
from robustnorm.settings.groups import BranchAttack
from robustnorm.system.memory import in_smaller_batches

Precision = Literal["fp32", "bf16"]


class Search(NamedTuple):
    """Settings of a PGD search.

    Args:
        epsilon: Attack radius on the [0, 1] scale.
        step_size: Change of a pixel in one step.
        steps: Numbers of steps after which verdicts are taken.
        threat_model: ``"linf"`` or ``"l2"``.
        seed: Of the random starts.
        own: Branches with an attack of their own, by name; it gives all but steps and seed.
    """

    epsilon: float
    step_size: float
    steps: tuple[int, ...]
    threat_model: str = "linf"
    seed: int = 0
    own: Mapping[str, BranchAttack] = MappingProxyType({})

    def of(self, branch: str) -> Search:
        """Returns the settings with which that branch, or serving rule, is attacked: for all."""
        alone = self._replace(own={})
        if branch not in self.own:
            return alone
        attack = self.own[branch]
        return alone._replace(
            epsilon=float(attack.epsilon),
            step_size=float(attack.step_size),
            threat_model=attack.threat_model,
        )


class Branch(NamedTuple):
    """One branch of a network: ``score`` gives its verdicts, ``search`` the attack's gradients."""

    name: str
    score: nn.Module
    search: Callable[[Tensor], Tensor]


def branches(
    model: nn.Module,
    precision: Precision = "fp32",
    *,
    serving: bool = False,
    compile: bool = False,
) -> list[Branch]:
    """Returns the branches of ``model``, or its only one, ready to be attacked.

    The copies that search hold the weights as they are now.

    Args:
        model: In evaluation mode.
        precision: Of the convolutions of the search.
        serving: Also each serving rule over all branches, as if it were one more branch.
        compile: Run the copies through torch.compile.
    """
    scores = scorers(model, serving=serving)
    searches: dict[str, Callable[[Tensor], Tensor]] = {}
    for name, score in scores.items():
        if isinstance(score, Served):
            searches[name] = Served([searches[branch] for branch in branches_of(model)], name)
        else:
            searches[name] = _searcher(model, name, precision, compile)
    return [Branch(name, score, searches[name]) for name, score in scores.items()]


def scorers(model: nn.Module, *, serving: bool = False) -> dict[str, nn.Module]:
    """Returns each branch of ``model``, or its only one, by its name: what gives the verdicts.

    Args:
        model: In evaluation mode.
        serving: Also each serving rule over all branches, as if it were one more branch.
    """
    own = {name: bind(model, name) for name in branches_of(model) or (SINGLE,)}
    if not serving or len(own) == 1:
        return own
    return own | {rule: Served(list(own.values()), rule) for rule in RULES}


def _searcher(
    model: nn.Module, branch: str, precision: Precision, compile: bool
) -> Callable[[Tensor], Tensor]:
    copy = fold(model, branch, fuse=True).requires_grad_(False)
    copy.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    # Not mode="reduce-overhead": a serving rule calls several copies before it reads the logits,
    # which CUDA graphs would have overwritten.
    network: Callable[[Tensor], Tensor] = torch.compile(copy) if compile else copy
    if precision == "fp32":
        return network
    for module in copy.modules():
        if isinstance(module, nn.Conv2d):
            module.to(torch.bfloat16)  # once, not in every forward

    def search(images: Tensor) -> Tensor:
        with torch.autocast(images.device.type, torch.bfloat16):
            return network(images).float()

    return search


def attack_chunk(
    attacked: Sequence[Branch],
    images: Tensor,
    labels: Tensor,
    image_ids: Tensor,
    search: Search,
    adv_images: dict[Key, Tensor] | None = None,
    scored_by: Sequence[Branch] | None = None,
    most: int | None = None,
) -> dict[Key, Outcome]:
    """Returns verdict and loss of images, a chunk or what ``images_at_once`` says, for each key.

    The loss of rule ``"any"`` is that of the iterate after as many steps.

    Args:
        attacked: From ``branches``.
        images: (N, C, H, W), uint8 or floating point in [0, 1].
        labels: int64 (N,).
        image_ids: int64 (N,), on the CPU.
        search: Settings of the attack.
        adv_images: Is given the images behind each verdict of an attack on the branch that scores.
            Of rule ``"any"``: an image or iterate that is misclassified, the last iterate where
            none is.
        scored_by: Branches that score the last iterates; those attacked by default.
        most: Images attacked at a time; where there are fewer, the last is repeated. By default all
            of them, filled up to whole chunks.

    Where memory does not suffice, halves are attacked one after the other, then quarters: an
    image's verdict does not depend on its companions.
    """

    def attack(whole: int) -> tuple[dict[Key, Outcome], dict[Key, Tensor]]:
        outcomes: dict[Key, list[Outcome]] = {}
        kept: dict[Key, list[Tensor]] = {}
        for rows, size in split_filled(len(images), whole):
            placed = place(attacked[0].score, images, labels, rows)
            found, iterates = _attack_placed(
                attacked, *placed, image_ids[rows], search, scored_by or attacked
            )
            for key, outcome in found.items():
                outcomes.setdefault(key, []).append(first(outcome, size))
            for key, iterate in iterates.items() if adv_images is not None else ():
                kept.setdefault(key, []).append(iterate[:size])
        return (
            {key: join(parts) for key, parts in outcomes.items()},
            {key: torch.cat(parts) for key, parts in kept.items()},
        )

    outcomes, kept = in_smaller_batches(attack, most or whole_chunks(len(images)))
    if adv_images is not None:
        adv_images.update(kept)
    return outcomes


def _attack_placed(
    attacked: Sequence[Branch],
    images: Tensor,
    labels: Tensor,
    image_ids: Tensor,
    search: Search,
    scored_by: Sequence[Branch],
) -> tuple[dict[Key, Outcome], dict[Key, Tensor]]:
    """Attacks all images at once; returns the outcomes, and the images behind them."""
    most = max(search.steps)
    outcomes: dict[Key, Outcome] = {}
    kept: dict[Key, Tensor] = {}
    for branch in attacked:
        own = search.of(branch.name)
        clean = judge(branch.score, images, labels)
        outcomes[Key("none", "final", branch.name, branch.name)] = clean
        trace = _Trace(images, labels, search.steps)
        last = pgd(
            branch.search,
            images,
            labels,
            epsilon=own.epsilon,
            step_size=own.step_size,
            steps=most,
            threat_model=own.threat_model,
            start=random_start(images, image_ids, own),
            on_iterate=trace,
        )
        finals = {step: judge(branch.score, trace.finals[step][0], labels) for step in trace.finals}
        breaks = _breaks(branch.score, trace, clean.correct, finals, labels)
        unbroken, witnesses = clean.correct, images
        for step, final in finals.items():
            iterate, right = trace.finals[step]
            final = final._replace(agrees=final.correct == right)
            witnesses = choose(unbroken, iterate, witnesses)
            unbroken = unbroken & final.correct
            fallen = trace.broken[step]
            broken = fallen & breaks
            any_correct = unbroken & ~broken
            agrees = any_correct == (clean.correct & ~fallen)
            key = Key(f"pgd-{step}", "final", branch.name, branch.name)
            outcomes[key] = final
            outcomes[key._replace(rule="any")] = Outcome(any_correct, final.loss, agrees)
            kept[key] = iterate
            kept[key._replace(rule="any")] = choose(broken, trace.breaking, witnesses)
        for other in scored_by:
            if other.name != branch.name:
                key = Key(f"pgd-{most}", "final", branch.name, other.name)
                outcomes[key] = judge(other.score, last, labels)
    return outcomes, kept


def _breaks(
    score: nn.Module,
    trace: _Trace,
    standing: Tensor,
    finals: Mapping[int, Outcome],
    labels: Tensor,
) -> Tensor:
    """Returns which images the network itself misclassifies where the search first did; (N,).

    That decides only where the clean image and all final iterates are right; the network is not
    asked where there is no such image.
    """
    decides = torch.zeros_like(standing)
    for step, final in finals.items():
        standing = standing & final.correct
        decides |= standing & trace.broken[step]
    return ~judge(score, trace.breaking, labels).correct & decides if decides.any() else decides


class _Trace:
    """What a search saw on its way: the iterates to be judged, and the first that broke an image.

    Attributes:
        finals: Step to the iterate and whether the search classified it correctly.
        broken: Step to whether any iterate up to it was misclassified.
        breaking: The first misclassified iterate of each image, the clean image where none was.
    """

    def __init__(self, images: Tensor, labels: Tensor, steps: Sequence[int]) -> None:
        self._labels = labels
        self._steps = steps
        self._broken = torch.zeros_like(labels, dtype=torch.bool)
        self.breaking = images
        self.finals: dict[int, tuple[Tensor, Tensor]] = {}
        self.broken: dict[int, Tensor] = {}

    def __call__(self, step: int, iterate: Tensor, logits: Tensor) -> None:
        right = logits.argmax(1) == self._labels
        now = ~right & ~self._broken
        self.breaking = choose(now, iterate, self.breaking)
        self._broken = self._broken | now
        if step in self._steps:
            self.finals[step] = iterate, right
            self.broken[step] = self._broken


def random_start(images: Tensor, image_ids: Tensor, search: Search, restart: int = 0) -> Tensor:
    """Draws each image's start from a generator of its own, on the CPU: the same on any device."""
    ball = find_threat_model(search.threat_model)
    starts = []
    for image, image_id in zip(images.cpu(), image_ids.tolist(), strict=True):
        generator = generator_of(search.seed, image_id, restart)
        starts.append(ball.random_start(image[None], search.epsilon, generator))
    return torch.cat(starts).to(images.device)


def generator_of(seed: int, image_id: int, restart: int = 0) -> torch.Generator:
    """Returns the generator of one image's random start, or of the chunk that it begins."""
    state = np.random.SeedSequence((seed, image_id, restart)).generate_state(1)[0]
    return torch.Generator().manual_seed(int(state))

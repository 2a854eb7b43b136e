"""A search by PGD: its settings, the branches that it climbs, and one climb.

The search follows the gradients of a folded, fused copy of the branch, in channels-last layout and
in bfloat16 if asked for. Every verdict is then the prediction of the network itself in float32.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from copy import deepcopy
from types import MappingProxyType
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from robustnorm.attacks import pgd
from robustnorm.attacks.asked import Asked, NotFiniteError, find_logits
from robustnorm.attacks.threat_model import threat_model as find_threat_model
from robustnorm.models.faithful import TOLERANCE, Standin
from robustnorm.models.serving import RULES, Served
from robustnorm.models.surgery import fold
from robustnorm.norms.routing import bind, branches_of
from robustnorm.records.record import SINGLE
from robustnorm.settings.config import Config
from robustnorm.settings.groups import BranchAttack

Precision = Literal["fp32", "bf16"]
# PGD steps of Table 4.
STEPS = (10, 20)


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

    @classmethod
    def of(cls, config: Config, steps: tuple[int, ...] = STEPS) -> Search:
        """Returns the search with which ``config`` evaluates."""
        return cls(**config.attack.options, steps=steps, seed=config.eval_seed, own=config.branches)

    def for_branch(self, branch: str) -> Search:
        """Returns the settings with which that branch, or serving rule, is attacked: for all."""
        options = self.own[branch].options if branch in self.own else {}
        return self._replace(**options, own={})

    @property
    def options(self) -> dict[str, Any]:
        """The keywords of ``pgd`` that it gives: radius, step and threat model."""
        return {
            "epsilon": self.epsilon,
            "step_size": self.step_size,
            "threat_model": self.threat_model,
        }


class Branch(NamedTuple):
    """One branch of a network: ``score`` gives its verdicts, ``standin`` the attack's gradients."""

    name: str
    score: nn.Module
    standin: Callable[[Tensor], Tensor]


def branches(
    model: nn.Module,
    precision: Precision = "fp32",
    *,
    serving: bool = False,
    compile: bool = False,
) -> list[Branch]:
    """Returns the branches of ``model``, or its only one, ready to be attacked.

    The copies that search hold the weights as they are now. Each is compared with its network on
    the first images that it is given; where it differs the network itself searches.

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
            searches[name] = _searcher(model, name, score, precision, compile)
    return [Branch(name, score, searches[name]) for name, score in scores.items()]


def scorers(model: nn.Module, *, serving: bool = False) -> dict[str, nn.Module]:
    """Returns each branch of ``model``, or its only one, by its name: what gives the verdicts.

    Args:
        model: In evaluation mode.
        serving: Also each serving rule over all branches, as if it were one more branch.
    """
    own: dict[str, nn.Module] = {
        name: Asked(bind(model, name)) for name in branches_of(model) or (SINGLE,)
    }
    if not serving or len(own) == 1:
        return own
    return own | {rule: Served(list(own.values()), rule) for rule in RULES}


def _searcher(
    model: nn.Module, branch: str, score: nn.Module, precision: Precision, compile: bool
) -> Standin:
    copy = fold(model, branch, fuse=True).requires_grad_(False)
    copy.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    # Not mode="reduce-overhead": a serving rule calls several copies before it reads the logits,
    # which CUDA graphs would have overwritten.
    network = _quietly(torch.compile(copy)) if compile else copy
    if precision == "fp32":
        exact = Asked(copy)
        return Standin(exact, score, Asked(network) if compile else exact, branch)
    exact = Asked(deepcopy(copy))
    for module in copy.modules():
        if isinstance(module, nn.Conv2d):
            module.to(torch.bfloat16)  # once, not in every forward

    def search(images: Tensor) -> Tensor:
        with torch.autocast(images.device.type, torch.bfloat16):
            return find_logits(network(images), len(images)).float()

    return Standin(exact, score, search, branch, TOLERANCE["bf16"])


def _quietly(compiled: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """Lets the compiler look at images that are a copy, of which it warns."""

    def call(images: Tensor) -> Tensor:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "The .grad attribute of a Tensor that is not a leaf")
            return compiled(images)

    return call


def climb(
    branch: Branch,
    images: Tensor,
    labels: Tensor,
    image_ids: Tensor,
    search: Search,
    *,
    restarts: int | Tensor = 0,
    loss: str = "ce",
    targets: Tensor | None = None,
    on_iterate: Callable[[int, Tensor, Tensor], None] | None = None,
) -> Tensor:
    """Returns what PGD makes of images through a branch, each from its own random start.

    The one way in which a branch is climbed: with its own attack where it has one, max(steps)
    steps.

    Args:
        branch: From ``branches``; its ``standin`` is climbed.
        images: (N, C, H, W), floating point in [0, 1], on the network's device.
        labels: int64 (N,), likewise.
        image_ids: int64 (N,), on the CPU.
        search: Settings of the attack.
        restarts: Number of the random start, of all images or of each, int64 (N,).
        loss: As ``pgd``, like all that follow.
        targets: Classes to reach, int64 (N,).
        on_iterate: Called with each iterate.

    Raises:
        NotFiniteError: When a logit or gradient is not finite, with the image's id.
    """
    own = search.for_branch(branch.name)
    try:
        return pgd(
            branch.standin,
            images,
            labels,
            **own.options,
            steps=max(own.steps),
            loss=loss,
            targets=targets,
            start=random_start(images, image_ids, own, restarts),
            on_iterate=on_iterate,
        )
    except NotFiniteError as error:
        raise error.of(image_ids) from None


def random_start(
    images: Tensor, image_ids: Tensor, search: Search, restarts: int | Tensor = 0
) -> Tensor:
    """Draws each image's start from a generator of its own, on the CPU: the same on any device."""
    ball = find_threat_model(search.threat_model)
    numbers = torch.as_tensor(restarts).expand(len(images)).tolist()
    starts = []
    for image, image_id, number in zip(images.cpu(), image_ids.tolist(), numbers, strict=True):
        generator = generator_of(search.seed, image_id, number)
        starts.append(ball.random_start(image[None], search.epsilon, generator))
    return torch.cat(starts).to(images.device)


def generator_of(seed: int, image_id: int, restart: int = 0) -> torch.Generator:
    """Returns the generator of one image's random start, or of the chunk that it begins."""
    state = np.random.SeedSequence((seed, image_id, restart)).generate_state(1)[0]
    return torch.Generator().manual_seed(int(state))

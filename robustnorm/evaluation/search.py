"""PGD on the branches of a network: its settings, the branches, and one attack.

Gradients come from a folded, fused copy of the branch, in channels-last layout and optionally in
bfloat16. Every verdict is the prediction of the network itself in float32.
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
from robustnorm.attacks.logits import LogitsModel, NotFiniteError, find_logits
from robustnorm.attacks.threat_model import threat_model as find_threat_model
from robustnorm.models.faithful import TOLERANCE, Standin
from robustnorm.models.folding import fold
from robustnorm.models.layout import is_channels_last, is_fragile
from robustnorm.models.serving import RULES, Served
from robustnorm.norms.routing import bind, branches_of
from robustnorm.records.record import SINGLE
from robustnorm.runs.described import to_channels_last
from robustnorm.settings.config import Config
from robustnorm.settings.groups import BranchAttack

Precision = Literal["fp32", "bf16"]
# Numbers of PGD steps in the paper's Table 4.
STEPS = (10, 20)


class Search(NamedTuple):
    """Settings of PGD.

    Args:
        epsilon: Attack radius on the [0, 1] scale.
        step_size: Size of one step on that scale.
        steps: Numbers of steps after which verdicts are taken.
        threat_model: ``"linf"`` or ``"l2"``.
        seed: Seed of the random starts.
        branch_attacks: Attacks of the branches that are attacked differently, by name; they share
            steps and seed.
    """

    epsilon: float
    step_size: float
    steps: tuple[int, ...]
    threat_model: str = "linf"
    seed: int = 0
    branch_attacks: Mapping[str, BranchAttack] = MappingProxyType({})

    @classmethod
    def of(cls, config: Config, steps: tuple[int, ...] = STEPS) -> Search:
        """Returns the settings of ``config``'s evaluation."""
        return cls(
            **config.attack.options,
            steps=steps,
            seed=config.eval_seed,
            branch_attacks=config.branches,
        )

    def for_branch(self, branch: str) -> Search:
        """Returns the settings of the attack on one branch or serving rule."""
        options = self.branch_attacks[branch].options if branch in self.branch_attacks else {}
        return self._replace(**options, branch_attacks={})

    @property
    def options(self) -> dict[str, Any]:
        """The keyword arguments of ``pgd`` for radius, step size and threat model."""
        return {
            "epsilon": self.epsilon,
            "step_size": self.step_size,
            "threat_model": self.threat_model,
        }


class Branch(NamedTuple):
    """One branch of a network: ``score`` gives verdicts, ``standin`` the gradients for attacks."""

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

    The copies that give the gradients hold the current weights. Each is compared with the network
    on the first images that it receives; if they differ, the network itself gives the gradients.

    Args:
        model: In evaluation mode.
        precision: Precision of the copies' convolutions.
        serving: Also return each serving rule over all branches, as if it were a branch.
        compile: Apply torch.compile to the copies.
    """
    scores = scorers(model, serving=serving)
    standins: dict[str, Callable[[Tensor], Tensor]] = {}
    for name, score in scores.items():
        if isinstance(score, Served):
            standins[name] = Served([standins[branch] for branch in branches_of(model)], name)
        else:
            standins[name] = _standin(model, name, score, precision, compile)
    return [Branch(name, score, standins[name]) for name, score in scores.items()]


def scorers(model: nn.Module, *, serving: bool = False) -> dict[str, nn.Module]:
    """Returns the modules that give verdicts, by name: each branch of ``model``, or its only one.

    Args:
        model: In evaluation mode.
        serving: Also return each serving rule over all branches, as if it were a branch.
    """
    scores: dict[str, nn.Module] = {
        name: LogitsModel(bind(model, name)) for name in branches_of(model) or (SINGLE,)
    }
    if not serving or len(scores) == 1:
        return scores
    return scores | {rule: Served(list(scores.values()), rule) for rule in RULES}


def _standin(
    model: nn.Module, branch: str, score: nn.Module, precision: Precision, compile: bool
) -> Standin:
    if any(isinstance(module, torch.jit.ScriptModule) for module in model.modules()):
        return Standin(score, score, score, branch)  # neither copied nor traced
    copy = fold(model, branch, fuse=True).requires_grad_(False)
    if is_channels_last(model) or not is_fragile(model):
        to_channels_last(copy)
    # Not mode="reduce-overhead": a serving rule calls several copies before it reads their logits,
    # which CUDA graphs would overwrite.
    network = _quietly(torch.compile(copy)) if compile else copy
    if precision == "fp32":
        exact = LogitsModel(copy)
        return Standin(exact, score, LogitsModel(network) if compile else exact, branch)
    exact = LogitsModel(deepcopy(copy))
    for module in copy.modules():
        if isinstance(module, nn.Conv2d):
            module.to(torch.bfloat16)  # once, not in every forward

    def search(images: Tensor) -> Tensor:
        with torch.autocast(images.device.type, torch.bfloat16):
            return find_logits(network(images), len(images)).float()

    return Standin(exact, score, search, branch, TOLERANCE["bf16"])


def _quietly(compiled: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """Suppresses the compiler's warning about the gradient of images that are not leaf tensors."""

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
    """Returns PGD's adversarial images for a branch, each from a random start of its own.

    Runs max(steps) steps with the attack settings of the branch.

    Args:
        branch: From ``branches``; its ``standin`` gives the gradients.
        images: (N, C, H, W), floating point in [0, 1], on the network's device.
        labels: int64 (N,), on the network's device.
        image_ids: int64 (N,), on the CPU.
        search: Settings of the attack.
        restarts: Index of the random start, one for all images or one per image, int64 (N,).
        loss: As in ``pgd``, like the following arguments.
        targets: Target classes, int64 (N,).
        on_iterate: Called with each iterate.

    Raises:
        NotFiniteError: When a logit or gradient is not finite; names the image's id.
    """
    search = search.for_branch(branch.name)
    try:
        return pgd(
            branch.standin,
            images,
            labels,
            **search.options,
            steps=max(search.steps),
            loss=loss,
            targets=targets,
            start=random_start(images, image_ids, search, restarts),
            on_iterate=on_iterate,
        )
    except NotFiniteError as error:
        raise error.of(image_ids) from None


def random_start(
    images: Tensor, image_ids: Tensor, search: Search, restarts: int | Tensor = 0
) -> Tensor:
    """Draws each image's start from a generator of its own on the CPU: the same on any device."""
    ball = find_threat_model(search.threat_model)
    numbers = torch.as_tensor(restarts, device="cpu").expand(len(images)).tolist()
    starts = []
    for image, image_id, number in zip(images.cpu(), image_ids.tolist(), numbers, strict=True):
        generator = generator_of(search.seed, image_id, number)
        starts.append(ball.random_start(image[None], search.epsilon, generator))
    return torch.cat(starts).to(images.device)


def generator_of(seed: int, image_id: int, restart: int = 0) -> torch.Generator:
    """Returns the generator for an image's random start, or for the chunk that begins with it."""
    state = np.random.SeedSequence((seed, image_id, restart)).generate_state(1)[0]
    return torch.Generator().manual_seed(int(state))

"""Runs a named attack on one branch."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from robustnorm.attacks import ATTACKS
from robustnorm.attacks.logits import Model
from robustnorm.attacks.passes import Counted, Passes
from robustnorm.evaluation.chunks import (
    AttackResult,
    Outcome,
    classify_all,
    in_few_batch_sizes,
    padded_rows,
    rows_of,
    rows_on_device,
)
from robustnorm.evaluation.search import Branch, Search, climb, generator_of
from robustnorm.settings.attack_names import EvaluationAttack

# Number of wrong classes that a targeted attack aims at, as in AutoAttack.
_TARGETS = 9


def is_per_image(attack: EvaluationAttack) -> bool:
    """Returns whether the result for an image does not depend on the images beside it."""
    return attack.function == "pgd" or getattr(ATTACKS[attack.function], "per_image", False)


def attack_branch(
    attack: EvaluationAttack,
    branch: Branch,
    images: Tensor,
    labels: Tensor,
    image_ids: Tensor,
    search: Search,
    size: int,
) -> AttackResult:
    """Attacks one batch of images on one branch.

    PGD, and attacks marked ``per_image``, follow the gradients of the branch's copy from random
    starts that depend on (seed, image id, restart); images that only the copy misclassifies are
    then attacked on the branch itself, since an attack may stop at what it takes for a success.
    Other attacks draw random numbers for a whole batch and attack the branch itself, so their
    verdicts depend on the seed and the chunk; they receive whole chunks, and the passes for padding
    count too. The network classifies every result; an image keeps its first misclassified result,
    or else the one with the highest cross-entropy.

    Args:
        attack: From ``parse_attacks``.
        branch: From ``branches``.
        images: (N, C, H, W), floating point in [0, 1], on the network's device.
        labels: int64 (N,), on the network's device.
        image_ids: int64 (N,), on the CPU.
        search: Settings of the attack, except for the number of steps, which ``attack`` gives.
        size: Number of images without padding.
    """
    batch_size, searched = len(images), is_per_image(attack)
    copy = in_few_batch_sizes(branch.standin, batch_size)
    itself = in_few_batch_sizes(branch.score, batch_size) if searched else branch.score
    best, nothing_yet = images.clone(), torch.ones_like(labels, dtype=torch.bool)
    lowest = torch.full_like(labels, -torch.inf, dtype=torch.float32)
    outcome = Outcome(nothing_yet, lowest, nothing_yet.clone())
    # Finding the likeliest wrong classes takes one forward pass per image.
    passes = [Passes(size * attack.targeted)]

    def attack_rows(wanted: Tensor, model: Model) -> None:
        asked = Counted(model)
        run, count = _climbs(attack, branch, asked, images, labels, image_ids, search)
        # Remaining work as (result, image): the first result of all images, then the second, ...
        # Broken images drop out, and later results take their place in the batch.
        left = torch.cartesian_prod(rows_of(count), wanted)
        while len(left):
            n = min(len(left), batch_size)
            numbers, rows = (left[:n] if searched else left[padded_rows(n, batch_size)]).T
            some, classes = rows_on_device(branch.score, images, labels, rows)
            results = run(some, classes, rows, numbers)
            found = classify_all(branch.score, results, classes, image_ids[rows], batch_size)
            if searched:
                with torch.no_grad():
                    seen = copy(results).argmax(1) == classes
                found = found._replace(agrees=found.correct == seen)
            for number in numbers[:n].unique():
                here = (numbers[:n] == number).nonzero().flatten().to(images.device)
                to = rows.to(images.device)[here]
                new, old = (Outcome(*(v[i] for v in o)) for o, i in ((found, here), (outcome, to)))
                worse = old.correct & (~new.correct | (new.loss > old.loss))
                for old_values, values in zip((*outcome, best), (*found, results), strict=True):
                    old_values[to[worse]] = values[here[worse]]
            left = left[n:][outcome.correct.cpu()[left[n:, 1]]]
        passes.append(asked.passes)

    attack_rows(rows_of(size), copy if searched else itself)
    only_copy = (outcome.correct & ~outcome.agrees)[:size].nonzero().flatten().cpu()
    if searched and len(only_copy):
        attack_rows(only_copy, itself)
        outcome.agrees[only_copy.to(images.device)] = False
    return AttackResult(outcome, best, Passes.sum(passes))


def _climbs(
    attack: EvaluationAttack,
    branch: Branch,
    asked: Counted,
    images: Tensor,
    labels: Tensor,
    image_ids: Tensor,
    search: Search,
) -> tuple[Callable[[Tensor, Tensor, Tensor, Tensor], Tensor], int]:
    """Returns a function from (images, labels, rows, numbers) to results, and how many there are.

    ``rows`` are the images' rows in the batch, ``numbers`` count an image's results from 0.
    """
    if attack.function == "pgd":
        aims = _targets(branch, images, labels) if attack.targeted else None
        each = 1 if aims is None else len(aims)
        pgd_search = search._replace(steps=(attack.options["steps"],))

        def climbed(images: Tensor, labels: Tensor, rows: Tensor, numbers: Tensor) -> Tensor:
            aim = None if aims is None else aims[numbers % each, rows].to(labels.device)
            return climb(
                branch._replace(standin=asked),
                images,
                labels,
                image_ids[rows],
                pgd_search,
                restarts=numbers // each,
                loss=attack.options["loss"],
                targets=aim,
            )

        return climbed, attack.restarts * each
    branch_search = search.for_branch(branch.name)

    def attacked(images: Tensor, labels: Tensor, rows: Tensor, numbers: Tensor) -> Tensor:
        result: Tensor = ATTACKS[attack.function](
            asked,
            images,
            labels,
            epsilon=branch_search.epsilon,
            threat_model=branch_search.threat_model,
            generator=generator_of(branch_search.seed, int(image_ids[0])),
            **attack.options,
        )
        return result

    return attacked, 1


@torch.no_grad()
def _targets(branch: Branch, images: Tensor, labels: Tensor) -> Tensor:
    """Returns the likeliest wrong classes of each image, the likeliest first, (K, N)."""
    logits: Tensor = branch.score(images)
    wrong = logits.scatter(1, labels[:, None], -torch.inf)
    return wrong.topk(min(_TARGETS, logits.shape[1] - 1), dim=1).indices.T.cpu()

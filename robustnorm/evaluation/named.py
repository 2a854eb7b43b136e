"""Runs the attacks that a user named on one chunk of images."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from robustnorm.attacks import autoattack, fgsm, pgd, torchattack
from robustnorm.evaluation.chunks import (
    CHUNK,
    Outcome,
    choose,
    first,
    join,
    judge,
    place,
    split_filled,
)
from robustnorm.evaluation.search import Branch, Search, generator_of, random_start
from robustnorm.records.journal import Key
from robustnorm.settings.attack_names import EvaluationAttack
from robustnorm.system.errors import OutOfMemoryError
from robustnorm.system.memory import in_smaller_batches, is_out_of_memory

# Wrong classes that a targeted attack aims at, as many as AutoAttack's.
_TARGETS = 9


def attack_chunk_by_name(
    attack: EvaluationAttack,
    attacked: Sequence[Branch],
    images: Tensor,
    labels: Tensor,
    image_ids: Tensor,
    search: Search,
    adv_images: dict[Key, Tensor] | None = None,
) -> dict[Key, Outcome]:
    """Returns verdict and loss of at most ``CHUNK`` images under one attack, for each branch.

    FGSM and PGD search on the branch's copy, from random starts that follow from (seed, image id,
    restart). The code of others draws for a whole batch at once and attacks the branch itself: its
    verdicts follow from the seed and the chunk. The network judges every result; an image keeps the
    first that is misclassified, where there is none that of the highest cross-entropy.

    Args:
        attack: From ``parse_attacks``.
        attacked: From ``branches``.
        images: (N, C, H, W), uint8 or floating point in [0, 1].
        labels: int64 (N,).
        image_ids: int64 (N,), on the CPU.
        search: Settings of the attack; its numbers of steps play no part.
        adv_images: Is given the images behind each verdict.

    Where memory does not suffice, FGSM and PGD attack halves of the chunk, then quarters.

    Raises:
        OutOfMemoryError: When memory does not suffice for the code of others, whose verdicts would
            change with the size of the chunk.
    """

    def run(whole: int) -> dict[Key, tuple[Outcome, Tensor]]:
        found: dict[Key, list[tuple[Outcome, Tensor]]] = {}
        for rows, size in split_filled(len(images), whole):
            placed = place(attacked[0].score, images, labels, rows)
            for branch in attacked:
                own = search.of(branch.name)
                outcome, best = _attack_branch(attack, branch, *placed, image_ids[rows], own)
                key = Key(attack.name, "final", branch.name, branch.name)
                found.setdefault(key, []).append((first(outcome, size), best[:size]))
        return {
            key: (join([outcome for outcome, _ in parts]), torch.cat([best for _, best in parts]))
            for key, parts in found.items()
        }

    if attack.kind in ("fgsm", "pgd"):
        found = in_smaller_batches(run, CHUNK)
    else:
        try:
            found = run(CHUNK)
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            raise OutOfMemoryError(
                f"out of memory: {attack.name} draws for a whole chunk of {CHUNK} images, so that "
                "smaller ones would change its verdicts; leave it out of --attacks, or evaluate on "
                "a --device with more memory"
            ) from error
    if adv_images is not None:
        adv_images.update({key: best for key, (_, best) in found.items()})
    return {key: outcome for key, (outcome, _) in found.items()}


def _attack_branch(
    attack: EvaluationAttack,
    branch: Branch,
    images: Tensor,
    labels: Tensor,
    image_ids: Tensor,
    search: Search,
) -> tuple[Outcome, Tensor]:
    """Attacks all images at once; returns their outcome, and the images behind it."""
    best, nothing_yet = images, torch.ones_like(labels, dtype=torch.bool)
    outcome = Outcome(
        nothing_yet, torch.full_like(labels, -torch.inf, dtype=torch.float32), nothing_yet
    )
    for result in _results(attack, branch, images, labels, image_ids, search):
        found = judge(branch.score, result, labels)
        if attack.kind in ("fgsm", "pgd"):
            with torch.no_grad():
                seen = branch.search(result).argmax(1) == labels
            found = found._replace(agrees=found.correct == seen)
        better = outcome.correct & (~found.correct | (found.loss > outcome.loss))
        best = choose(better, result, best)
        pairs = zip(found, outcome, strict=True)
        outcome = Outcome(*(torch.where(better, new, old) for new, old in pairs))
        if not outcome.correct.any():
            break
    return outcome, best


def _results(
    attack: EvaluationAttack,
    branch: Branch,
    images: Tensor,
    labels: Tensor,
    image_ids: Tensor,
    search: Search,
) -> Iterator[Tensor]:
    """Yields adversarial images, one restart and one target after the other."""
    ball: dict[str, Any] = {"epsilon": search.epsilon, "threat_model": search.threat_model}
    generator = generator_of(search.seed, int(image_ids[0]))
    match attack.kind:
        case "fgsm":
            yield fgsm(branch.search, images, labels, **ball)
        case "pgd":
            aims = _targets(branch, images, labels) if attack.targeted else [None]
            for restart in range(attack.restarts):
                start = random_start(images, image_ids, search, restart)
                for targets in aims:
                    yield pgd(
                        branch.search,
                        images,
                        labels,
                        step_size=search.step_size,
                        steps=attack.steps,
                        loss=attack.loss,
                        targets=targets,
                        start=start,
                        **ball,
                    )
        case "autoattack":
            parts = [attack.part] if attack.part else None
            yield autoattack(
                branch.score, images, labels, attacks_to_run=parts, generator=generator, **ball
            )
        case "torchattacks":
            yield torchattack(
                branch.score, images, labels, name=attack.part, generator=generator, **ball
            )


@torch.no_grad()
def _targets(branch: Branch, images: Tensor, labels: Tensor) -> list[Tensor]:
    """Returns the likeliest wrong class of each image, then the next, up to ``_TARGETS``."""
    logits = branch.score(images)
    wrong = logits.scatter(1, labels[:, None], -torch.inf)
    return list(wrong.topk(min(_TARGETS, logits.shape[1] - 1), dim=1).indices.T)

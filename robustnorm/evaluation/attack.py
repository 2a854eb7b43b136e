"""Attacks the branches of a network on a chunk of images."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from robustnorm.attacks.passes import Passes
from robustnorm.evaluation.chunks import (
    AttackResult,
    Outcome,
    join,
    rows_on_device,
    split_padded,
    whole_chunks,
    without_padding,
)
from robustnorm.evaluation.named import attack_branch, is_per_image
from robustnorm.evaluation.search import Branch, Search
from robustnorm.evaluation.trajectory import trajectory
from robustnorm.records.journal import Key
from robustnorm.settings.attack_names import EvaluationAttack
from robustnorm.system.errors import OutOfMemoryError
from robustnorm.system.memory import in_smaller_batches, is_out_of_memory


def attacks_in_order(
    search: Search, named: Sequence[EvaluationAttack]
) -> list[EvaluationAttack | None]:
    """Returns None, which stands for PGD, then each named attack that PGD does not cover."""
    covered = {f"pgd-{steps}" for steps in search.steps}
    return [None, *(attack for attack in named if attack.name not in covered)]


def attack_chunk(
    attacked: Sequence[Branch],
    images: Tensor,
    labels: Tensor,
    image_ids: Tensor,
    search: Search,
    adv_images: dict[Key, Tensor] | None = None,
    attack: EvaluationAttack | None = None,
    *,
    scored_by: Sequence[Branch] | None = None,
    batch_size: int | None = None,
    passes: dict[Key, Passes] | None = None,
) -> dict[Key, Outcome]:
    """Attacks images, such as a chunk of them, and returns their outcomes by key.

    The outcomes do not depend on other attacks or on the other branches in ``attacked``. The loss
    under rule ``"any"`` is that of the iterate after the same number of steps.

    If memory runs out, the images are attacked in halves, then in quarters: an image's verdict does
    not depend on the images beside it.

    Args:
        attacked: From ``branches``.
        images: (N, C, H, W), uint8 or floating point in [0, 1].
        labels: int64 (N,).
        image_ids: int64 (N,), on the CPU.
        search: Settings of the attack.
        adv_images: Receives the images behind each verdict for which the attacked branch is also
            the one that scores. For rule ``"any"``: a misclassified image or iterate, or else the
            last iterate.
        attack: From ``parse_attacks``; by default PGD, which takes verdicts after each of
            ``search.steps`` and on the clean images.
        scored_by: Branches that score PGD's last iterates; by default the attacked ones.
        batch_size: Number of images attacked at once; a smaller batch is padded with copies of its
            last image. By default all images, padded to whole chunks.
        passes: Receives the number of passes behind the verdicts for which the attacked branch is
            also the one that scores.

    Raises:
        OutOfMemoryError: When memory does not suffice for an attack that draws random numbers for a
            whole chunk, so that smaller batches would change its verdicts.
    """

    def run(
        batch_size: int,
    ) -> tuple[dict[Key, Outcome], dict[Key, Tensor], dict[Key, list[Passes]]]:
        outcomes: dict[Key, list[Outcome]] = {}
        kept: dict[Key, list[Tensor]] = {}
        taken: dict[Key, list[Passes]] = {}
        for rows, size in split_padded(len(images), batch_size):
            batch = rows_on_device(attacked[0].score, images, labels, rows)
            arguments = (*batch, image_ids[rows], search)
            if attack is None:
                pgd = trajectory(attacked, *arguments, scored_by or attacked)
                found = {
                    key: AttackResult(*result, _passes_of_pgd(key, size))
                    for key, result in pgd.items()
                }
            else:
                found = {
                    Key(attack.name, "final", branch.name, branch.name): attack_branch(
                        attack, branch, *arguments, size
                    )
                    for branch in attacked
                }
            for key, (outcome, iterate, counted) in found.items():
                taken.setdefault(key, []).append(counted)
                outcomes.setdefault(key, []).append(without_padding(outcome, size))
                if adv_images is not None and iterate is not None:
                    kept.setdefault(key, []).append(iterate[:size])
        return (
            {key: join(parts) for key, parts in outcomes.items()},
            {key: torch.cat(parts) for key, parts in kept.items()},
            taken,
        )

    if attack is None or is_per_image(attack):
        outcomes, kept, taken = in_smaller_batches(run, batch_size or whole_chunks(len(images)))
    else:
        try:
            outcomes, kept, taken = run(whole_chunks(1))
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            raise OutOfMemoryError(
                f"out of memory: {attack.name} draws random numbers for {whole_chunks(1)} images "
                "at once, so smaller batches would change its verdicts; leave it out of --attacks, "
                "or evaluate on a --device with more memory"
            ) from error
    if adv_images is not None:
        adv_images.update(kept)
    if passes is not None:
        passes.update({key: Passes.sum(parts) for key, parts in taken.items()})
    return outcomes


def _passes_of_pgd(key: Key, count: int) -> Passes:
    """Returns PGD's passes for the verdicts on ``count`` images: one of each kind per step."""
    if key.attack == "none" or key.attack_branch != key.score_branch:
        return Passes()
    steps = int(key.attack.removeprefix("pgd-"))
    return Passes(steps * count, steps * count)

"""Rule "any" only: an image leaves the attack once it is broken, and another takes its place."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from robustnorm.attacks.descent import pgd_step
from robustnorm.evaluation.chunks import (
    CHUNK,
    Outcome,
    classify_all,
    padded_rows,
    rows_of,
    rows_on_device,
    whole_chunks,
)
from robustnorm.evaluation.search import Branch, Search, random_start
from robustnorm.records.journal import Key
from robustnorm.system.memory import in_smaller_batches

# Once no images are left to replace the broken ones, the batch empties; a large batch would run
# nearly empty for a long time.
_CLIMBING = CHUNK // 2


def any_outcomes(
    attacked: Sequence[Branch],
    images: Tensor,
    labels: Tensor,
    image_ids: Tensor,
    search: Search,
    *,
    at_once: int = CHUNK,
) -> dict[Key, Outcome]:
    """Returns the outcomes of any number of images, clean and under rule ``"any"``.

    Verdicts are taken only after the largest number of steps. See ``attack_chunk`` for the
    arguments; ``at_once`` comes from ``images_at_once``.
    """
    # A larger batch on a GPU, but small compared with the number of images.
    batch_size = _CLIMBING if at_once <= CHUNK else min(at_once, whole_chunks(len(images) // 4))
    outcomes: dict[Key, Outcome] = {}
    for branch in attacked:
        branch_search = search.for_branch(branch.name)
        attack = partial(_until_broken, branch, images, labels, image_ids, branch_search)
        clean, under_any = in_smaller_batches(attack, batch_size)
        outcomes[Key("none", "final", branch.name, branch.name)] = clean
        outcomes[Key(f"pgd-{max(search.steps)}", "any", branch.name, branch.name)] = under_any
    return outcomes


class _Climb(NamedTuple):
    """Images under attack: their rows, steps taken, and current iterates, N of each."""

    rows: Tensor
    steps: Tensor
    iterates: Tensor

    @property
    def size(self) -> int:
        return len(self.rows)

    def at(self, rows: Tensor | slice) -> _Climb:
        return _Climb(*(values[rows] for values in self))

    def and_then(self, other: _Climb) -> _Climb:
        return _Climb(*map(torch.cat, zip(self, other, strict=True)))


def _until_broken(
    branch: Branch,
    images: Tensor,
    labels: Tensor,
    image_ids: Tensor,
    search: Search,
    batch_size: int,
) -> tuple[Outcome, Outcome]:
    """Returns the outcomes on the clean images and under rule ``"any"``.

    An image leaves the batch when the copy misclassifies it, or after the last step, and another
    takes its place. The network classifies the images that have left, several at a time; one that
    it classifies correctly and that has steps left rejoins the attack. The loss is that of the last
    iterate classified by the network. Images misclassified from the start are not attacked.
    """
    images, labels = rows_on_device(branch.score, images, labels, rows_of(len(images)))
    clean = classify_all(branch.score, images, labels, image_ids)
    correct, loss = clean.correct.clone(), clean.loss.clone()
    withstood = clean.correct.clone()  # according to the copy
    most, few = max(search.steps), max(1, batch_size // 5)
    queue = clean.correct.nonzero().flatten()
    climbing = judged = after = _Climb(queue[:0], queue[:0], images[:0])
    while len(queue) or climbing.size:
        entering, queue = torch.tensor_split(queue, [max(0, batch_size - climbing.size)])
        if len(entering):
            start = random_start(images[entering], image_ids[entering.cpu()], search)
            climbing = climbing.and_then(_Climb(entering, torch.zeros_like(entering), start))
        batch, climbing = climbing.at(slice(batch_size)), climbing.at(slice(batch_size, None))
        n, padded = batch.size, padded_rows(batch.size, batch_size)
        iterates, logits = pgd_step(
            branch.standin,
            batch.iterates[padded],
            images[batch.rows[padded]],
            labels[batch.rows[padded]],
            **search.options,
        )
        right = logits[:n].argmax(1) == labels[batch.rows]
        withstood[batch.rows] &= right
        leaves = ~right | (batch.steps == most)
        following = _Climb(batch.rows, batch.steps + 1, iterates[:n])
        climbing = following.at(~leaves).and_then(climbing)
        judged, after = judged.and_then(batch.at(leaves)), after.and_then(following.at(leaves))
        if judged.size >= (few if len(queue) else 1):
            classes, ids = labels[judged.rows], image_ids[judged.rows.cpu()]
            seen = classify_all(branch.score, judged.iterates, classes, ids, few)
            correct[judged.rows], loss[judged.rows] = seen.correct, seen.loss
            climbing = climbing.and_then(after.at(seen.correct & (judged.steps < most)))
            judged = after = climbing.at(slice(0))
    return clean, Outcome(correct, loss, correct == withstood)

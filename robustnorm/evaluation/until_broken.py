"""Rule "any" only: an image leaves the attack once it is broken, and another one replaces it."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from robustnorm.attacks.descent import pgd_step
from robustnorm.evaluation.chunks import CHUNK, Outcome, classify_all, fill, place, whole_chunks
from robustnorm.evaluation.search import Branch, Search, random_start
from robustnorm.records.journal import Key
from robustnorm.system.memory import in_smaller_batches

# When broken images are replaced, the last ones are attacked in a batch that is not full; a large
# batch would be nearly empty for long.
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

    See ``attack_chunk`` for the arguments; ``at_once`` comes from ``images_at_once``. Verdicts are
    taken only after the largest number of steps. See also ``_until_broken``.
    """
    # Larger if that is faster, but small compared with the number of waiting images.
    most = _CLIMBING if at_once <= CHUNK else min(at_once, whole_chunks(len(images) // 4))
    outcomes: dict[Key, Outcome] = {}
    for branch in attacked:
        own = search.for_branch(branch.name)
        attack = partial(_until_broken, branch, images, labels, image_ids, own)
        clean, broken = in_smaller_batches(attack, most)
        outcomes[Key("none", "final", branch.name, branch.name)] = clean
        outcomes[Key(f"pgd-{max(search.steps)}", "any", branch.name, branch.name)] = broken
    return outcomes


class _Climb(NamedTuple):
    """Images under attack: their indices, steps taken, and current iterates, N of each."""

    places: Tensor
    steps: Tensor
    iterates: Tensor

    @property
    def size(self) -> int:
        return len(self.places)

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
    whole: int,
) -> tuple[Outcome, Outcome]:
    """Returns the outcomes of the clean images and of rule ``"any"``, ``whole`` images at a time.

    An image leaves the batch when the copy misclassifies it, or after the last step, and another
    one replaces it. The network then classifies several of those that left together; an image that
    it classifies correctly and that has steps left continues. The loss is that of the last iterate
    classified by the network. Images misclassified from the start are not attacked.
    """
    images, labels = place(branch.score, images, labels, torch.arange(len(images)))
    clean = classify_all(branch.score, images, labels, image_ids)
    correct, loss = clean.correct.clone(), clean.loss.clone()
    withstood = clean.correct.clone()  # according to the copy
    most, few = max(search.steps), max(1, whole // 5)
    queue = clean.correct.nonzero().flatten()
    climbing = judged = after = _Climb(queue[:0], queue[:0], images[:0])
    while len(queue) or climbing.size:
        entering, queue = torch.tensor_split(queue, [max(0, whole - climbing.size)])
        if len(entering):
            start = random_start(images[entering], image_ids[entering.cpu()], search)
            climbing = climbing.and_then(_Climb(entering, torch.zeros_like(entering), start))
        batch, climbing = climbing.at(slice(whole)), climbing.at(slice(whole, None))
        n, rows = batch.size, fill(batch.size, whole)
        iterates, logits = pgd_step(
            branch.standin,
            batch.iterates[rows],
            images[batch.places[rows]],
            labels[batch.places[rows]],
            **search.options,
        )
        right = logits[:n].argmax(1) == labels[batch.places]
        withstood[batch.places] &= right
        leaves = ~right | (batch.steps == most)
        following = _Climb(batch.places, batch.steps + 1, iterates[:n])
        climbing = following.at(~leaves).and_then(climbing)
        judged, after = judged.and_then(batch.at(leaves)), after.and_then(following.at(leaves))
        if judged.size >= (few if len(queue) else 1):
            classes, ids = labels[judged.places], image_ids[judged.places.cpu()]
            seen = classify_all(branch.score, judged.iterates, classes, ids, few)
            correct[judged.places], loss[judged.places] = seen.correct, seen.loss
            climbing = climbing.and_then(after.at(seen.correct & (judged.steps < most)))
            judged = after = climbing.at(slice(0))
    return clean, Outcome(correct, loss, correct == withstood)

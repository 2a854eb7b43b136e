"""One PGD trajectory through each branch, with verdicts along the way."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from robustnorm.evaluation.chunks import Outcome, choose, classify
from robustnorm.evaluation.search import Branch, Search, climb
from robustnorm.records.journal import Key


def trajectory(
    attacked: Sequence[Branch],
    images: Tensor,
    labels: Tensor,
    image_ids: Tensor,
    search: Search,
    scored_by: Sequence[Branch],
) -> dict[Key, tuple[Outcome, Tensor | None]]:
    """Attacks one batch with PGD; returns the outcomes by key, each with its adversarial images.

    Outcomes on clean images, and on one branch's images scored by another, come without images.

    See ``attack_chunk`` for the arguments; images are floating point, on the network's device.
    """
    most = max(search.steps)
    found: dict[Key, tuple[Outcome, Tensor | None]] = {}
    for branch in attacked:
        clean = classify(branch.score, images, labels, image_ids)
        found[Key("none", "final", branch.name, branch.name)] = clean, None
        trace = _Trace(images, labels, search.steps)
        last = climb(branch, images, labels, image_ids, search, on_iterate=trace)
        finals = {
            step: classify(branch.score, iterate, labels, image_ids)
            for step, (iterate, _) in trace.finals.items()
        }
        breaks = _breaks(branch.score, trace, clean.correct, finals, labels, image_ids)
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
            found[key] = final, iterate
            outcome = Outcome(any_correct, final.loss, agrees)
            breaking = choose(broken, trace.breaking, witnesses)
            found[key._replace(rule="any")] = outcome, breaking
        for other in scored_by:
            if other.name != branch.name:
                key = Key(f"pgd-{most}", "final", branch.name, other.name)
                found[key] = classify(other.score, last, labels, image_ids), None
    return found


def _breaks(
    score: nn.Module,
    trace: _Trace,
    standing: Tensor,
    finals: Mapping[int, Outcome],
    labels: Tensor,
    image_ids: Tensor,
) -> Tensor:
    """Returns which images the network misclassifies at the first iterate that broke the copy.

    Only images whose clean version and final iterates are all classified correctly matter; without
    any the network is not called.
    """
    decides = torch.zeros_like(standing)
    for step, final in finals.items():
        standing = standing & final.correct
        decides |= standing & trace.broken[step]
    if not decides.any():
        return decides
    return ~classify(score, trace.breaking, labels, image_ids).correct & decides


class _Trace:
    """Records iterates during the attack, and how the copy classifies them.

    Attributes:
        finals: By step, the iterate and whether it was classified correctly.
        broken: By step, whether any iterate up to that step was misclassified.
        breaking: The first misclassified iterate of each image, or else the clean image.
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

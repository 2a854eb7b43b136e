"""Chunks of fixed size in which images are attacked and scored, and their classification."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.backends import cudnn
from torch.nn import functional as F

from robustnorm.attacks.asked import Model, check_finite
from robustnorm.attacks.passes import Passes
from robustnorm.data.batches import to_float
from robustnorm.models.layout import must_be_contiguous
from robustnorm.system.memory import in_smaller_batches

# Images are attacked in chunks of this size, the last one padded, so that a verdict does not depend
# on the number of images.
CHUNK = 100


class Outcome(NamedTuple):
    """Verdict and cross-entropy (nats) of each image, and whether the copy's verdict agrees."""

    correct: Tensor
    loss: Tensor
    agrees: Tensor


class Attacked(NamedTuple):
    """Result of an attack: the images' outcome, the adversarial images, and the passes.

    Passes are those of the attack itself, without those of the verdicts.
    """

    outcome: Outcome
    images: Tensor | None
    passes: Passes = Passes()


def fill(size: int, whole: int) -> Tensor:
    """Returns row indices that pad ``size`` rows to a whole chunk by repeating the last row."""
    return torch.arange(whole).clamp_max(size - 1)


def whole_chunks(count: int) -> int:
    """Returns the number of images in the fewest whole chunks, at least one, that hold ``count``.

    Examples:
        >>> whole_chunks(0), whole_chunks(100), whole_chunks(101)
        (100, 100, 200)
    """
    return CHUNK * max(1, math.ceil(count / CHUNK))


def in_few_sizes(model: Model, whole: int) -> Model:
    """Returns a model that receives batches of ``whole`` images, half as many, a quarter, ..., 2.

    Batches are padded with copies of the last image. Each new batch size needs new kernels, and a
    single image is rounded differently from a batch.
    """

    def filled(images: Tensor) -> Tensor:
        size, count = max(2, whole), len(images)
        while size > 2 and (size + 1) // 2 >= count:
            size = (size + 1) // 2
        if count < size:
            copies = images[-1:].detach().expand(size - count, *images.shape[1:])
            images = torch.cat([images, copies])
        return model(images)[:count]

    return filled


def split_filled(size: int, whole: int) -> Iterator[tuple[Tensor, int]]:
    """Yields row indices that split ``size`` images into padded chunks, and the sizes."""
    for rows in torch.split(torch.arange(size), whole):
        yield rows[fill(len(rows), whole)], len(rows)


def place(score: nn.Module, images: Tensor, labels: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
    """Returns rows of images and labels on the model's device, images as channels-last floats.

    Images are contiguous where that format would end the process, see ``robustnorm.models.layout``.
    """
    device = next(score.parameters(), images).device
    images = to_float(images[rows.to(images.device)].to(device))
    contiguous = must_be_contiguous(score, images)
    memory_format = torch.contiguous_format if contiguous else torch.channels_last
    images = images.contiguous(memory_format=memory_format)
    return images, labels[rows.to(labels.device)].to(device)


@torch.no_grad()
def classify(score: nn.Module, images: Tensor, labels: Tensor, image_ids: Tensor) -> Outcome:
    """Classifies images; the outcome does not yet compare with the copy's verdicts.

    Raises:
        NotFiniteError: When a logit is not finite, with the image's id.
    """
    with exact_float32():
        logits = score(images)
    check_finite(logits, image_ids)
    correct = logits.argmax(1) == labels
    loss = F.cross_entropy(logits.float(), labels, reduction="none")
    return Outcome(correct, loss, torch.ones_like(correct))


def exact_float32() -> AbstractContextManager[None]:
    """Prevents a GPU within the block from rounding float32 to TF32 and from trying kernels."""
    return cudnn.flags(enabled=cudnn.enabled, benchmark=False, allow_tf32=False)


def classify_all(
    score: nn.Module, images: Tensor, labels: Tensor, image_ids: Tensor, most: int = CHUNK
) -> Outcome:
    """Classifies any number of images, ``most`` at a time or fewer if memory does not suffice."""

    def classified(whole: int) -> Outcome:
        chunks = [
            first(classify(score, images[rows], labels[rows], image_ids[rows]), size)
            for rows, size in split_filled(len(images), whole)
        ]
        return join(chunks)

    return in_smaller_batches(classified, most)


def join(outcomes: Sequence[Outcome]) -> Outcome:
    """Concatenates outcomes."""
    return Outcome(*map(torch.cat, zip(*outcomes, strict=True)))


def first(outcome: Outcome, size: int) -> Outcome:
    """Returns the outcome of the first ``size`` images, without padding."""
    return Outcome(*(values[:size] for values in outcome))


def choose(condition: Tensor, these: Tensor, others: Tensor) -> Tensor:
    """Returns, per image, one of ``these`` where the condition (N,) holds, else of ``others``."""
    return torch.where(condition.view(-1, *[1] * (these.dim() - 1)), these, others)

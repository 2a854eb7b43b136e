"""Chunks of fixed size, in which images are attacked and classified."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from robustnorm.attacks.logits import Model, check_finite
from robustnorm.attacks.passes import Passes
from robustnorm.data.batches import to_float
from robustnorm.models.layout import must_be_contiguous
from robustnorm.system.memory import in_smaller_batches
from robustnorm.system.precision import exact_float32

# Images are attacked in chunks of this size, the last one padded, so that a verdict does not depend
# on the number of images.
CHUNK = 100


class Outcome(NamedTuple):
    """Verdict and cross-entropy (nats) of each image, and whether the copy's verdict agrees."""

    correct: Tensor
    loss: Tensor
    agrees: Tensor


class AttackResult(NamedTuple):
    """Result of an attack: the outcomes, the adversarial images, and the passes of the attack.

    The passes that only give verdicts are not counted.
    """

    outcome: Outcome
    images: Tensor | None
    passes: Passes = Passes()


def rows_of(count: int) -> Tensor:
    """Returns the rows of ``count`` images, on the CPU whatever torch's default device is."""
    return torch.arange(count, device="cpu")


def padded_rows(size: int, batch_size: int) -> Tensor:
    """Returns row indices that pad ``size`` rows to ``batch_size`` by repeating the last row."""
    return rows_of(batch_size).clamp_max(size - 1)


def whole_chunks(count: int) -> int:
    """Rounds a number of images up to whole chunks, at least one.

    Examples:
        >>> whole_chunks(0), whole_chunks(100), whole_chunks(101)
        (100, 100, 200)
    """
    return CHUNK * max(1, math.ceil(count / CHUNK))


def in_few_batch_sizes(model: Model, batch_size: int) -> Model:
    """Pads the model's batches to ``batch_size`` images, or to a half, a quarter, ..., or 2.

    The padding repeats the last image. Each new batch size needs new kernels, and a single image is
    rounded differently from a batch.
    """

    def filled(images: Tensor) -> Tensor:
        size, count = max(2, batch_size), len(images)
        while size > 2 and (size + 1) // 2 >= count:
            size = (size + 1) // 2
        if count < size:
            copies = images[-1:].detach().expand(size - count, *images.shape[1:])
            images = torch.cat([images, copies])
        return model(images)[:count]

    return filled


def split_padded(size: int, batch_size: int) -> Iterator[tuple[Tensor, int]]:
    """Yields the row indices of each padded batch, and how many of them are not padding."""
    for rows in torch.split(rows_of(size), batch_size):
        yield rows[padded_rows(len(rows), batch_size)], len(rows)


def rows_on_device(
    score: nn.Module, images: Tensor, labels: Tensor, rows: Tensor
) -> tuple[Tensor, Tensor]:
    """Returns rows of images and labels on the model's device, the images as channels-last floats.

    The images are contiguous instead where that format would crash the process (see
    ``robustnorm.models.layout``), and if they are vectors, signals or volumes.
    """
    device = next(score.parameters(), images).device
    images = to_float(images[rows.to(images.device)].to(device))
    contiguous = images.dim() != 4 or must_be_contiguous(score, images)
    memory_format = torch.contiguous_format if contiguous else torch.channels_last
    images = images.contiguous(memory_format=memory_format)
    return images, labels[rows.to(labels.device)].to(device)


@torch.no_grad()
def classify(score: nn.Module, images: Tensor, labels: Tensor, image_ids: Tensor) -> Outcome:
    """Classifies images; ``agrees`` is True for all of them.

    Raises:
        NotFiniteError: When a logit is not finite; names the image's id.
    """
    with exact_float32():
        logits = score(images)
    check_finite(logits, image_ids)
    correct = logits.argmax(1) == labels
    loss = F.cross_entropy(logits.float(), labels, reduction="none")
    return Outcome(correct, loss, torch.ones_like(correct))


def classify_all(
    score: nn.Module, images: Tensor, labels: Tensor, image_ids: Tensor, batch_size: int = CHUNK
) -> Outcome:
    """Classifies any number of images, ``batch_size`` at a time, or fewer if memory runs out."""

    def classified(batch_size: int) -> Outcome:
        chunks = [
            without_padding(classify(score, images[rows], labels[rows], image_ids[rows]), size)
            for rows, size in split_padded(len(images), batch_size)
        ]
        return join(chunks)

    return in_smaller_batches(classified, batch_size)


def join(outcomes: Sequence[Outcome]) -> Outcome:
    """Concatenates outcomes."""
    return Outcome(*map(torch.cat, zip(*outcomes, strict=True)))


def without_padding(outcome: Outcome, size: int) -> Outcome:
    """Returns the outcomes of the first ``size`` images."""
    return Outcome(*(values[:size] for values in outcome))


def choose(condition: Tensor, these: Tensor, others: Tensor) -> Tensor:
    """Takes each image from ``these`` where the condition (N,) holds, and else from ``others``."""
    return torch.where(condition.view(-1, *[1] * (these.dim() - 1)), these, others)

"""The number of images attacked at once: one chunk, or on a GPU as many as fit into its memory."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from torch import Tensor

from robustnorm.evaluation.attack import attack_chunk
from robustnorm.evaluation.chunks import CHUNK
from robustnorm.evaluation.search import Branch, Search
from robustnorm.system.memory import bytes_taken, free_bytes

# Largest number of chunks at once; fewer already keep a GPU busy.
_MOST = 20
# Fraction of the free memory to use; the rest is for what does not grow with the batch.
_SHARE = 0.6


def images_at_once(
    attacked: Sequence[Branch],
    images: Tensor,
    labels: Tensor,
    image_ids: Tensor,
    search: Search,
) -> int:
    """Returns how many images to give ``attack_chunk`` at once, a multiple of ``CHUNK``.

    On a GPU, as many as fit into its free memory, estimated from one attack step on one chunk;
    elsewhere ``CHUNK``. See ``attack_chunk`` for the arguments.
    """
    device = next(attacked[0].score.parameters(), images).device
    if device.type != "cuda" or len(images) <= CHUNK:
        return CHUNK
    chunk = images[:CHUNK], labels[:CHUNK], image_ids[:CHUNK], search._replace(steps=(1,))
    taken = bytes_taken(partial(attack_chunk, attacked, *chunk), device)
    fitting = int(_SHARE * free_bytes(device) / taken)  # read after the step has warmed it up
    return CHUNK * max(1, min(fitting, _MOST))

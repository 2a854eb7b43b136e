"""Hashes of verdicts, and of networks and images that were given in Python."""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor, nn

from robustnorm.records.bits import encode, pack_bits
from robustnorm.records.record import Record, fingerprint
from robustnorm.system.tensor_hash import bytes_of, hash_tensors

# Images hashed at a time, since those on disk must be decoded.
_AT_ONCE = 1000


def digest_of_network(model: nn.Module) -> str:
    """Returns a SHA-256 of a network's tensors, without the extra states of its modules."""
    state = model.state_dict().items()
    return hash_tensors({name: value for name, value in state if isinstance(value, Tensor)})


def digest_of_images(images: Tensor, labels: Tensor) -> str:
    """Returns a SHA-256 of images and their labels.

    8-bit images have the same hash as uint8 and as value / 255.

    Args:
        images: (N, C, H, W), uint8 or floating point in [0, 1].
        labels: int64 (N,).

    Examples:
        >>> images, labels = torch.tensor([[[[0, 51]]]], dtype=torch.uint8), torch.tensor([1])
        >>> digest_of_images(images, labels) == digest_of_images(images / 255, labels)
        True
    """
    digest = hashlib.sha256(str(tuple(images.shape)).encode())
    for rows in torch.split(torch.arange(len(images)), _AT_ONCE):
        digest.update(bytes_of(_to_8_bits(images[rows])))
    digest.update(bytes_of(labels.to(torch.int64)))
    return digest.hexdigest()


def digest_of_verdicts(record: Record) -> str:
    """Returns 16 hex digits that depend only on the image ids and the verdicts."""
    verdicts = [
        [
            *(v.attack, v.rule, v.attack_branch, v.score_branch),
            encode(pack_bits(v.correct)),
            v.disagreements,
        ]
        for v in record.verdicts
    ]
    return fingerprint({"image_ids": record.image_ids, "verdicts": verdicts})


def _to_8_bits(images: Tensor) -> Tensor:
    """Returns images as uint8 if that loses nothing, or else unchanged."""
    if not images.is_floating_point():
        return images
    rounded = (images * 255).round().to(torch.uint8)
    return rounded if torch.equal(rounded.to(images.dtype) / 255, images) else images

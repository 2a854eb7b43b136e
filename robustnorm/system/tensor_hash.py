"""Hashes of tensors, by which files and records identify their content."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import torch
from torch import Tensor


def hash_tensors(tensors: Mapping[str, Tensor]) -> str:
    """Returns the sha256 of tensors' names, types, shapes and values."""
    content = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        content.update(f"{name}\0{tensor.dtype}\0{tuple(tensor.shape)}\0".encode())
        content.update(bytes_of(tensor))
    return content.hexdigest()


def bytes_of(tensor: Tensor) -> memoryview:
    """Returns the bytes of a tensor's values, in order, without a copy where that is possible."""
    values = tensor.detach().cpu().contiguous().flatten()
    found: memoryview = values.view(torch.uint8).numpy().data
    return found

"""Adversarial images kept beside a record, one file per chunk, so that others can check them."""

from __future__ import annotations

import hashlib
import json
import logging
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, numpy
from torch import Tensor

from robustnorm.records.journal import Key
from robustnorm.records.record import RecordError
from robustnorm.system.files import write_atomically
from robustnorm.system.structure import check_structure
from robustnorm.system.untrusted import parse_json

_IDS = "image_ids"

log = logging.getLogger("robustnorm")


class KeptChunk(NamedTuple):
    """Adversarial images of one chunk.

    Args:
        image_ids: Indices in the test set, int64 (N,).
        images: Images by the verdict on the attacked branch itself, float32 (N, C, H, W), or of
            other dimensions for vectors, signals and volumes.
    """

    image_ids: NDArray[np.int64]
    images: dict[Key, NDArray[np.float32]]


def chunk_file(folder: Path, number: int) -> Path:
    """Returns the path of a chunk's file."""
    return folder / f"{number:05d}.safetensors"


def write_chunk(path: Path, image_ids: Tensor, adv_images: dict[Key, Tensor]) -> str:
    """Writes the file of a chunk atomically; returns its sha256."""
    tensors = {
        json.dumps(key): np.ascontiguousarray(images.float().cpu().numpy())
        for key, images in adv_images.items()
    }
    data = numpy.save(tensors | {_IDS: image_ids.numpy().astype(np.int64)})
    write_atomically(path, data, shared=True)
    return hashlib.sha256(data).hexdigest()


def is_kept(path: Path, sha256: str) -> bool:
    """Returns whether a chunk's file is intact; warns if not."""
    if path.is_file() and hashlib.sha256(path.read_bytes()).hexdigest() == sha256:
        return True
    log.warning("%s is damaged or missing; its images are attacked again", path)
    return False


def read_chunk(path: Path, sha256: str) -> KeptChunk:
    """Reads the images in a chunk's file that must have a given hash.

    Raises:
        RecordError: When the file is missing or has another hash.
    """
    try:
        data = path.read_bytes()
        if hashlib.sha256(data).hexdigest() != sha256:
            raise RecordError(f"{path} is not the file that the record names: its sha256 differs")
        tensors = numpy.load(data)
        image_ids = tensors.pop(_IDS)
        found = {Key(*parse_json(name)): images for name, images in tensors.items()}
        _check_arrays(image_ids, found)
        return KeptChunk(image_ids, found)
    except (OSError, SafetensorError, ValueError, TypeError, KeyError) as error:
        if isinstance(error, RecordError):
            raise
        raise RecordError(f"{path} cannot be read ({error}); evaluate again") from error


def _check_arrays(image_ids: NDArray[Any], images: dict[Key, NDArray[Any]]) -> None:
    """Raises a ValueError unless the arrays are as ``KeptChunk`` describes them."""
    if image_ids.dtype != np.int64 or image_ids.ndim != 1 or not len(image_ids):
        raise ValueError("it has no list of images")
    if any(image_ids < 0) or len(set(image_ids.tolist())) < len(image_ids):
        raise ValueError("its list of images has a duplicate or a negative entry")
    for key, found in images.items():
        check_structure(list(key), [str], "key")
        if found.dtype != np.float32 or found.ndim < 2 or len(found) != len(image_ids):
            raise ValueError(f"{found.dtype} of shape {found.shape} are not its images")


def hashes(folder: Path) -> dict[str, str]:
    """Returns the sha256 of each file in a folder by name, in the order of the chunks."""
    return {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.glob("*.safetensors"))
    }

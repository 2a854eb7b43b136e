"""Verdicts and other bytes as text."""

from __future__ import annotations

import base64
import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Bits = NDArray[np.bool_]


def pack_bits(bits: Bits) -> bytes:
    """Returns the bits, eight to a byte."""
    return np.packbits(bits).tobytes()


def unpack_bits(packed: bytes, n: int) -> Bits:
    """Restores the n bits from the result of ``pack_bits``.

    Raises:
        ValueError: When the bytes do not hold n bits.
    """
    if len(packed) != (n + 7) // 8:
        raise ValueError(f"{n} verdicts are required, got {len(packed)} bytes with eight each")
    return np.unpackbits(np.frombuffer(packed, np.uint8), count=n).astype(bool)


def encode(data: bytes) -> str:
    """Returns base64 as text."""
    return base64.b64encode(data).decode()


def decode(text: str) -> bytes:
    """Restores the data from the result of ``encode``.

    Raises:
        ValueError: When the text is not base64.
    """
    return base64.b64decode(text, validate=True)


def deflate(data: bytes) -> str:
    """Returns base64 of the data, which are compressed first if that makes them shorter."""
    return encode(min(data, zlib.compress(data, level=9), key=len))


def inflate(text: str, size: int) -> bytes:
    """Restores ``size`` bytes from the result of ``deflate``, or of ``encode``.

    Raises:
        ValueError: When the text does not hold as many bytes.
    """
    data = decode(text)
    if len(data) == size:
        return data
    stream = zlib.decompressobj()
    try:
        found = stream.decompress(data, size + 1)
    except zlib.error:
        raise ValueError(f"{size} bytes are required, got {len(data)}") from None
    if len(found) != size or not stream.eof or stream.unused_data:
        raise ValueError(f"{size} bytes are required, got compressed ones of another size")
    return found


def deflate_bits(bits: Bits) -> str:
    """Returns packed bits as ``deflate`` writes them."""
    return deflate(pack_bits(bits))


def inflate_bits(text: str, n: int) -> Bits:
    """Restores the n bits from the result of ``deflate_bits``; a ValueError on anything else."""
    return unpack_bits(inflate(text, (n + 7) // 8), n)


def deflate_labels(labels: Sequence[int], classes: Sequence[str]) -> str:
    """Returns labels as ``deflate`` writes them: two bytes each, four if there are many classes."""
    return deflate(np.asarray(labels, _label_type(classes)).tobytes())


def inflate_labels(text: str, n: int, classes: Sequence[str]) -> list[int]:
    """Restores n labels from the result of ``deflate_labels``; a ValueError on anything else."""
    kind = _label_type(classes)
    labels: list[int] = np.frombuffer(inflate(text, n * kind.itemsize), kind).tolist()
    return labels


def _label_type(classes: Sequence[str]) -> np.dtype[np.unsignedinteger[Any]]:
    return np.dtype("<u2" if len(classes) <= 2**16 else "<u4")

"""Verdicts and other bytes as text."""

from __future__ import annotations

import base64
import zlib

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
    if len(packed) != packed_size(n):
        raise ValueError(f"{n} verdicts are required, got {len(packed)} bytes with eight each")
    return np.unpackbits(np.frombuffer(packed, np.uint8), count=n).astype(bool)


def packed_size(n: int) -> int:
    """Returns how many bytes hold n bits."""
    return (n + 7) // 8


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

"""Verdicts as text: eight to a byte, in base64."""

from __future__ import annotations

import base64

import numpy as np
from numpy.typing import NDArray

Bits = NDArray[np.bool_]


def pack_bits(bits: Bits) -> str:
    """Returns base64 of the bits, eight to a byte."""
    return encode(np.packbits(bits).tobytes())


def unpack_bits(text: str, n: int) -> Bits:
    """Restores the n bits from the result of ``pack_bits``.

    Raises:
        ValueError: When the text does not hold n bits.
    """
    packed = np.frombuffer(base64.b64decode(text, validate=True), dtype=np.uint8)
    if len(packed) != (n + 7) // 8:
        raise ValueError(f"{n} verdicts are required, got {len(packed)} bytes with eight each")
    return np.unpackbits(packed, count=n).astype(bool)


def encode(data: bytes) -> str:
    """Returns base64 as text."""
    return base64.b64encode(data).decode()

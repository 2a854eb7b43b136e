"""Reads arrays from untrusted pickles without calling anything that they name."""

from __future__ import annotations

import io
import math
import pickle
import pickletools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from robustnorm.data.errors import RefusedDataError

# The largest known pickle, a tenth of ImageNet16, has 99 MB.
_MOST_BYTES = 400_000_000
_TYPES = {"u1": np.uint8, "i4": np.int32, "i8": np.int64}
# Opcodes that reach objects other than by name, or memory outside the pickle.
_REFUSED = frozenset({"EXT1", "EXT2", "EXT4", "PERSID", "BINPERSID", "INST", "OBJ", "NEXT_BUFFER"})


def read_pickle(path: Path) -> dict[str, Any]:
    """Returns the dictionary in a pickle of Python 2 or 3; its values may be numpy arrays.

    numpy's functions, which such a pickle names, are replaced by functions of this module; a pickle
    that names anything else is refused.

    Args:
        path: The file.

    Raises:
        RefusedDataError: On any other content, or damage.
    """
    try:
        if path.stat().st_size > _MOST_BYTES:
            raise ValueError(f"more than {_MOST_BYTES:,} bytes")
        data = path.read_bytes()
        _check_opcodes(data)
        content = _Unpickler(io.BytesIO(data), encoding="latin1").load()
        if not isinstance(content, dict):
            raise ValueError("no dictionary")
        return {
            str(key): value.array() if isinstance(value, _Array) else value
            for key, value in content.items()
        }
    # A damaged pickle may raise anything.
    except Exception as error:
        reason = str(getattr(error, "strerror", None) or error).partition("\n")[0][:200]
        raise RefusedDataError(
            f"{path} is not a pickle of plain arrays ({reason}); download it again"
        ) from error


def _check_opcodes(data: bytes) -> None:
    """Raises a ValueError on opcodes that take memory or reach objects without naming them."""
    for count, (opcode, argument, _) in enumerate(pickletools.genops(data)):
        if opcode.name in _REFUSED:
            raise ValueError(f"it uses {opcode.name}")
        # Python allocates memory for all smaller indices.
        if opcode.name in ("PUT", "BINPUT", "LONG_BINPUT") and int(argument or 0) > 2 * count + 256:
            raise ValueError(f"it uses the memo index {argument}")


class _Dtype:
    """Stands in for ``numpy.dtype``."""

    def __init__(self, name: str, *_: object) -> None:
        if name not in _TYPES:
            raise ValueError(f"values of type {name[:20]}")
        self.name = name

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        if state[1] == ">":
            raise ValueError("big-endian values")


class _Array:
    """Stands in for ``numpy.ndarray``."""

    def __init__(self, *_: object) -> None:
        self._state: tuple[tuple[int, ...], _Dtype, bytes] | None = None

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, shape, dtype, fortran, data = state
        self.fill(data, dtype, shape, "F" if fortran else "C")

    def fill(self, data: str | bytes, dtype: _Dtype, shape: tuple[int, ...], order: str) -> None:
        if order != "C":
            raise ValueError("an array in Fortran order")
        self._state = shape, dtype, data.encode("latin1") if isinstance(data, str) else data

    def array(self) -> NDArray[Any]:
        assert self._state is not None
        shape, dtype, data = self._state
        values = np.frombuffer(data, _TYPES[dtype.name])
        if min(shape, default=0) < 0 or math.prod(shape) != values.size:
            raise ValueError(f"{values.size} values for an array of {shape}")
        return values.reshape(shape)


def _from_buffer(data: bytes, dtype: _Dtype, shape: tuple[int, ...], order: str) -> _Array:
    array = _Array()
    array.fill(data, dtype, shape, order)
    return array


def _encode(text: str, _encoding: str) -> bytes:
    return text.encode("latin1")


_STAND_INS: dict[tuple[str, str], Callable[..., Any]] = {
    ("numpy", "ndarray"): _Array,
    ("numpy", "dtype"): _Dtype,
    ("numpy.core.multiarray", "_reconstruct"): _Array,
    ("numpy._core.multiarray", "_reconstruct"): _Array,
    ("numpy.core.numeric", "_frombuffer"): _from_buffer,
    ("numpy._core.numeric", "_frombuffer"): _from_buffer,
    ("_codecs", "encode"): _encode,
}


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        try:
            return _STAND_INS[module, name]
        except KeyError:
            raise ValueError(f"it names {module} {name}") from None

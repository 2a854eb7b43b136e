"""Kinds of damage to a file: flipped bits, lost ends, overwritten blocks, lines in disorder."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

_BLOCK = 64


def _flipped_bit(data: bytes, dice: Random) -> bytes:
    start = dice.randrange(len(data))
    return data[:start] + bytes([data[start] ^ 1 << dice.randrange(8)]) + data[start + 1 :]


def _other_byte(data: bytes, dice: Random) -> bytes:
    start = dice.randrange(len(data))
    return data[:start] + bytes([data[start] ^ dice.randrange(1, 256)]) + data[start + 1 :]


def _truncated(data: bytes, dice: Random) -> bytes:
    return data[: dice.randrange(len(data))]


def _overwritten(data: bytes, dice: Random) -> bytes:
    start = dice.randrange(len(data))
    size = dice.randint(1, min(_BLOCK, len(data) - start))
    return data[:start] + dice.randbytes(size) + data[start + size :]


def _zeroed(data: bytes, dice: Random) -> bytes:
    start = dice.randrange(len(data))
    size = dice.randint(1, min(_BLOCK, len(data) - start))
    return data[:start] + bytes(size) + data[start + size :]


def _copied_block(data: bytes, dice: Random) -> bytes:
    size = dice.randint(1, min(_BLOCK, len(data)))
    source, start = (dice.randrange(len(data) - size + 1) for _ in range(2))
    return data[:start] + data[source : source + size] + data[start + size :]


def _lost_block(data: bytes, dice: Random) -> bytes:
    start = dice.randrange(len(data))
    return data[:start] + data[start + dice.randint(1, _BLOCK) :]


def _lines(change: Callable[[list[bytes], Random], None]) -> Callable[[bytes, Random], bytes]:
    def changed(data: bytes, dice: Random) -> bytes:
        lines = data.splitlines(keepends=True)
        change(lines, dice)
        return b"".join(lines)

    return changed


def _swap(lines: list[bytes], dice: Random) -> None:
    one, other = (dice.randrange(len(lines)) for _ in range(2))
    lines[one], lines[other] = lines[other], lines[one]


def _delete(lines: list[bytes], dice: Random) -> None:
    del lines[dice.randrange(len(lines))]


def _duplicate(lines: list[bytes], dice: Random) -> None:
    lines.insert(dice.randrange(len(lines)), dice.choice(lines))


DAMAGES: dict[str, Callable[[bytes, Random], bytes]] = {
    "flipped bit": _flipped_bit,
    "other byte": _other_byte,
    "truncation": _truncated,
    "overwritten block": _overwritten,
    "zero block": _zeroed,
    "copied block": _copied_block,
    "lost block": _lost_block,
    "swapped lines": _lines(_swap),
    "deleted line": _lines(_delete),
    "duplicated line": _lines(_duplicate),
}


def damaged(data: bytes, kind: str, dice: Random) -> bytes:
    """Returns a file's content, which must not be empty, after a damage from ``DAMAGES``."""
    return DAMAGES[kind](data, dice)

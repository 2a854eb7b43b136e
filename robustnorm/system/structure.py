"""Checks of the structure of plain values from a file, before they are used."""

from __future__ import annotations

import math
from typing import Any

from robustnorm.system.untrusted import parse_fraction

# No valid whole number is larger; seeds have 64 bits.
_MOST = 2**64


def check_structure(value: Any, structure: Any, where: str = "") -> None:
    """Raises a ValueError unless plain values, as parsed from JSON, have the given structure.

    Args:
        value: The values.
        structure: ``int``, ``float`` (also a whole number), ``str``, ``bool`` or None; ``object``
            for anything; ``[structure]`` for a list; ``{"name": structure, "other?": structure}``
            for a mapping with these keys, where "?" marks one that may be missing and "*" stands
            for all other keys; a tuple of alternatives; or a function that raises a ValueError.
        where: Name of the values, for the message.

    Examples:
        >>> check_structure({"epoch": 3, "losses": [0.5, 1]}, {"epoch": int, "losses": [float]})
        >>> check_structure({"epoch": True}, {"epoch": int})
        Traceback (most recent call last):
        ValueError: 'epoch' must be int, got True
    """
    if isinstance(structure, tuple):
        _check_any(value, structure, where)
    elif isinstance(structure, dict):
        _require(isinstance(value, dict), value, where, "a mapping")
        _check_mapping(value, structure, where)
    elif isinstance(structure, list):
        _require(isinstance(value, list), value, where, "a list")
        for number, entry in enumerate(value):
            check_structure(entry, structure[0], f"{where}[{number}]")
    elif structure is None:
        _require(value is None, value, where, "null")
    elif isinstance(structure, type):
        kinds = (int, float) if structure is float else structure
        holds = isinstance(value, kinds) and (
            structure in (bool, object) or value is not bool(value)
        )
        _require(holds, value, where, structure.__name__)
        _require(structure is not int or abs(value) < _MOST, value, where, "less than 2^64")
    else:
        try:
            structure(value)
        except (ValueError, TypeError) as error:
            raise ValueError(f"'{where}' is out of range ({error})") from error


def _check_any(value: Any, structures: tuple[Any, ...], where: str) -> None:
    for structure in structures[:-1]:
        try:
            return check_structure(value, structure, where)
        except ValueError:
            continue
    return check_structure(value, structures[-1], where)


def _check_mapping(value: dict[str, Any], structure: dict[Any, Any], where: str) -> None:
    known = {name.removesuffix("?"): name for name in structure if name != "*"}
    missing = [name for name in known if name not in value and not known[name].endswith("?")]
    if missing:
        raise ValueError(f"'{where}' lacks '{missing[0]}'" if where else f"it lacks '{missing[0]}'")
    for name, entry in value.items():
        entry_name = f"{where}.{name[:80]}" if where else name[:80]
        if name not in known and "*" not in structure:
            raise ValueError(f"'{entry_name}' is unknown")
        check_structure(entry, structure[known.get(name, "*")], entry_name)


def _require(holds: bool, value: Any, where: str, what: str) -> None:
    if not holds:
        raise ValueError(f"'{where}' must be {what}, got {str(value)[:80]}")


def count(value: Any) -> None:
    """Checks for a whole number from 0 to 10^12."""
    check_structure(value, int)
    if not 0 <= value <= 10**12:
        raise ValueError(f"a number from 0 to 10^12 is required, got {value}")


def finite(value: Any) -> None:
    """Checks for a finite number that is not absurdly large."""
    check_structure(value, float)
    if not math.isfinite(value) or abs(value) > 10**12:
        raise ValueError(f"a number of at most 10^12 is required, got {str(value)[:40]}")


def attack_size(value: Any) -> None:
    """Checks for the radius or step size of an attack as text, such as "8/255"."""
    check_structure(value, str)
    if not 1e-9 <= parse_fraction(value) <= 1e6:
        raise ValueError(f"a number from 1e-9 to 1e6 is required, got {value[:80]}")


def interval(value: Any) -> None:
    """Checks for the two ends of an interval, or None."""
    if value is not None:
        check_structure(value, [float])
        if len(value) != 2:
            raise ValueError(f"two ends are required, got {len(value)}")

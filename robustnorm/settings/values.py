"""Converts values from the command line or YAML to the types of settings."""

from __future__ import annotations

import math
import re
import types
import unicodedata
from collections.abc import Callable, Mapping
from dataclasses import MISSING, fields, is_dataclass
from fractions import Fraction
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

import yaml

from robustnorm.system.registry import did_you_mean
from robustnorm.system.untrusted import load_yaml, parse_fraction

_S = TypeVar("_S")
_MOST_CHARACTERS = 4_000  # longer than any path


def make(kind: type[_S], values: Mapping[str, Any], where: str = "") -> _S:
    """Builds a dataclass of settings from plain values.

    Args:
        kind: The dataclass.
        values: Values by name of the setting, as text or as YAML reads them.
        where: Prefix of the names in messages, such as "branches.linf.".

    Raises:
        ValueError: On an unknown or missing setting, or a value of a wrong type or out of range,
            as the message says.

    Examples:
        >>> from robustnorm.settings.groups import BranchAttack
        >>> make(BranchAttack, {"threat_model": "Linf", "epsilon": "8/255", "step_size": 0.5})
        BranchAttack(threat_model='linf', epsilon=Fraction(8, 255), step_size=Fraction(1, 2))
    """
    known = {field.name: field for field in fields(kind)}  # type: ignore[arg-type]
    types_of = get_type_hints(kind)
    for name in values:
        if name not in known:
            raise ValueError(f"unknown setting '{where}{name}'{did_you_mean(name, known)}")
    for name, field in known.items():
        if name not in values and field.default is MISSING and field.default_factory is MISSING:
            raise ValueError(f"{where}{name} is required")
    return kind(
        **{name: to_type(types_of[name], value, where + name) for name, value in values.items()}
    )


def to_type(kind: Any, value: Any, name: str) -> Any:
    """Converts a value to the type of a setting.

    Args:
        kind: Annotation of the setting.
        value: As text or as YAML reads it.
        name: Name of the setting, for the message.

    Raises:
        ValueError: On a value that is not of that type.

    Examples:
        >>> to_type(int | None, "null", "limit"), to_type(tuple[str, ...], "fgsm,square", "attacks")
        (None, ('fgsm', 'square'))
        >>> to_type(int, "ten", "epochs")
        Traceback (most recent call last):
        ValueError: epochs must be a whole number, got ten
    """
    outer, inner = get_origin(kind), get_args(kind)
    if outer in (Union, types.UnionType):
        if value is None or (isinstance(value, str) and value.lower() == "null"):
            return None
        return to_type(inner[0], value, name)
    if outer is Literal:
        return _choice(inner, value, name)
    if outer in (tuple, list):
        items = _items(value, name)
        of = inner if outer is tuple and inner[-1] is not ... else inner[:1] * len(items)
        _require(len(of) == len(items), name, f"{len(of)} values", value)
        each = zip(of, items, strict=True)
        return outer(to_type(item_kind, item, f"each of {name}") for item_kind, item in each)
    if outer is dict:
        entries = mapping(value, name).items()
        return {_text(key, name): to_type(inner[1], item, f"{name}.{key}") for key, item in entries}
    if is_dataclass(kind):
        assert isinstance(kind, type)
        return make(kind, mapping(value, name), f"{name}.")
    return value if kind is Any else _SCALARS[kind](value, name)


def from_yaml(text: str) -> Any:
    """Parses a text as YAML, or returns it unchanged if that fails."""
    try:
        return load_yaml(text)
    except (yaml.YAMLError, ValueError, RecursionError):
        return text


def shown(value: Any) -> str:
    """Returns a received value for a message: on one line and of limited length."""
    text = "null" if value is None else " ".join(str(value).split()) or "''"
    return text if len(text) <= 80 else f"{text[:80]}..."


def _require(holds: bool, name: str, what: str, value: Any) -> None:
    if not holds:
        raise ValueError(f"{name} must be {what}, got {shown(value)}")


def _choice(allowed: tuple[Any, ...], value: Any, name: str) -> Any:
    text = str(value).lower()
    if text not in allowed:
        required = " or ".join(filter(None, (", ".join(allowed[:-1]), allowed[-1])))
        raise ValueError(f"{name} must be {required}, got {shown(value)}")
    return text


def _items(value: Any, name: str) -> list[Any]:
    if isinstance(value, str):
        text = value.strip()
        inside = text[1:-1] if text[:1] + text[-1:] in ("[]", "()") else text
        return [item.strip().strip("'\"") for item in inside.split(",")] if inside.strip() else []
    single = isinstance(value, (int, float)) and not isinstance(value, bool)
    _require(single or isinstance(value, (list, tuple)), name, "a list such as [a, b]", value)
    return [value] if single else list(value)


def mapping(value: Any, name: str) -> Mapping[str, Any]:
    """Returns a mapping, which may be given as YAML text; raises a ValueError on other values."""
    entries = from_yaml(value) if isinstance(value, str) else value
    _require(isinstance(entries, Mapping), name, "a mapping such as {width: 16}", value)
    return entries  # type: ignore[no-any-return]


def _text(value: Any, name: str) -> str:
    _require(isinstance(value, str), name, "text, in quotes if it looks like a number", value)
    if len(value) > _MOST_CHARACTERS:
        raise ValueError(f"{name} has {len(value)} characters, more than {_MOST_CHARACTERS}")
    if any(unicodedata.category(character) in ("Cc", "Cs") for character in value):
        raise ValueError(f"{name} holds a character that no name can have, got {value[:80]!r}")
    return str(value)


def _whole(value: Any, name: str) -> int:
    digits = str(value).strip()
    if isinstance(value, bool) or not re.fullmatch("[-+]?(0|[1-9][0-9]*)", digits):
        raise ValueError(f"{name} must be a whole number, got {shown(value)}")
    most, words = (2**64 - 1, "2^64 - 1") if "seed" in name else (10**9, "10^9")
    if len(digits) > 21 or abs(int(digits)) > most:
        raise ValueError(f"{name} must be at most {words}, got {shown(value)}")
    return int(digits)


def _number(value: Any, name: str) -> float:
    try:
        if isinstance(value, (str, int, float)) and not isinstance(value, bool):
            number = load_yaml(value) if isinstance(value, str) else value
            if isinstance(number, (int, float)) and math.isfinite(number):
                return float(number)
    except (ValueError, OverflowError, yaml.YAMLError):
        pass
    raise ValueError(f"{name} must be a number, got {shown(value)}")


def _truth(value: Any, name: str) -> bool:
    found = {"true": True, "yes": True, "false": False, "no": False}.get(str(value).lower())
    if found is None:
        raise ValueError(f"{name} must be true or false, got {shown(value)}")
    return found


def _fraction(value: Any, name: str) -> Fraction:
    try:
        return parse_fraction(value)
    except ValueError:
        raise ValueError(
            f"{name} must be a number such as 8/255 or 0.03, got {shown(value)}"
        ) from None


_SCALARS: dict[Any, Callable[[Any, str], Any]] = {
    str: _text,
    int: _whole,
    float: _number,
    bool: _truth,
    Fraction: _fraction,
}

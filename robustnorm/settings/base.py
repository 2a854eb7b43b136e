"""The base of all settings: validation, and conversion to plain values."""

from __future__ import annotations

import dataclasses
import math
import re
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, ClassVar, Self

from robustnorm.settings.values import make, shown
from robustnorm.system.errors import RefusedFileError

# The range of torch's generators.
MOST_SEED = 2**64 - 1


@dataclass(frozen=True)
class Settings:
    """Settings of a command, or a group of settings that several commands share.

    Attributes:
        only_in_files: Settings that the command does not offer but a config file may contain, since
            one file serves several commands.
        other_in_files: Settings of the command whose names mean something else in a config file,
            so that a file does not set them.
    """

    only_in_files: ClassVar[frozenset[str]] = frozenset()
    other_in_files: ClassVar[frozenset[str]] = frozenset()

    def __post_init__(self) -> None:
        """Raises a ValueError on a value out of range; each group checks its fields."""

    def _require(self, field: str, holds: bool, what: str) -> None:
        if not holds:
            raise ValueError(f"{field} must be {what}, got {shown(getattr(self, field))}")

    def _least(self, least: float, *names: str) -> None:
        for name in names:
            self._require(name, getattr(self, name) >= least, f"at least {least}")

    def _seed(self, name: str) -> None:
        value = getattr(self, name)
        for seed in value if isinstance(value, tuple) else (value,):
            if not 0 <= seed <= MOST_SEED:
                raise ValueError(f"{name} must be at least 0 and below 2^64, got {seed}")

    def _tag(self, name: str) -> None:
        tag = re.fullmatch("best|last|epoch(0|[1-9][0-9]{0,8})", getattr(self, name))
        self._require(name, bool(tag), "best, last, or epoch and a number such as epoch190")

    def to_dict(self) -> dict[str, Any]:
        """Returns plain values, with fractions as people write them ("8/255")."""
        return {field.name: _plain(getattr(self, field.name)) for field in dataclasses.fields(self)}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        """Restores the result of ``to_dict``, from this version or an earlier one.

        Raises:
            RefusedFileError: On anything else.
        """
        try:
            return make(cls, values)
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise RefusedFileError(
                f"this version cannot read the saved settings ({error}); remove the file "
                "that holds them"
            ) from error

    def differences(self, saved: Settings, ignore: frozenset[str]) -> str:
        """Describes how the settings of a saved run differ from these; "" when they do not."""
        here, there = self.to_dict(), saved.to_dict()
        return ", ".join(
            f"{name}: {there[name]} there, {here[name]} here"
            for name in here
            if name in there and name not in ignore and here[name] != there[name]
        )


def names(*groups: type[Settings]) -> frozenset[str]:
    """Returns the names of all settings in the groups."""
    return frozenset(field.name for group in groups for field in dataclasses.fields(group))


def check_plain(value: Any, name: str) -> None:
    """Raises a ValueError unless a value can be written as JSON."""
    if isinstance(value, dict) and all(isinstance(key, str) for key in value):
        for key, entry in value.items():
            check_plain(entry, f"{name}.{key}")
    elif isinstance(value, list):
        for entry in value:
            check_plain(entry, name)
    elif not (value is None or isinstance(value, (str, bool, int)) or _is_finite(value)):
        raise ValueError(
            f"{name} must be a number, text, true, false, null, a list or a mapping, got "
            f"{shown(value)}"
        )


def _is_finite(value: Any) -> bool:
    return isinstance(value, float) and math.isfinite(value)


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return _plain({f.name: getattr(value, f.name) for f in dataclasses.fields(value)})
    if isinstance(value, dict):
        return {name: _plain(entry) for name, entry in value.items()}
    if isinstance(value, Fraction):
        return str(value)
    return list(value) if isinstance(value, tuple) else value

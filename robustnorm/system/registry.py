"""Names that a user may type, each imported when it is first used."""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Callable, Iterable, Iterator, MutableMapping
from typing import Any


def did_you_mean(name: object, known: Iterable[str]) -> str:
    """Returns "; did you mean '...'?" with the nearest known name, or "" if none is near.

    Examples:
        >>> did_you_mean("evaluate", ["ablate", "eval"])
        "; did you mean 'eval'?"
    """
    typed, names = str(name).lower(), sorted(known)
    begins = [each for each in names if each.startswith(typed) or typed.startswith(each)]
    nearest = begins if len(typed) > 1 and begins else difflib.get_close_matches(typed, names, n=1)
    return f"; did you mean '{nearest[0]}'?" if nearest else ""


def unknown(subject: str, name: str, known: list[str]) -> str:
    """Returns the message for an unknown name, with the nearest known one."""
    hint = did_you_mean(name, known) or "."
    return f"unknown {subject} '{name}'{hint} Known: {', '.join(known)}."


def some(names: Iterable[str], most: int = 3) -> str:
    """Lists the first few names in alphabetical order, and how many more there are."""
    listed = sorted(names)
    more = f" and {len(listed) - most} more" if len(listed) > most else ""
    return ", ".join(listed[:most]) + more


class Registry(MutableMapping[str, Callable[..., Any]]):
    """A mapping from names to functions or classes that are imported when first used.

    Listing and checking names imports nothing, so a mistyped name is refused before torch is
    loaded. Programs add entries with ``registry[name] = function``.

    Args:
        subject: What an entry is, in the singular, for error messages.
        entries: Name to ``"module:attribute"``.

    Raises:
        KeyError: From ``registry[name]``, on an unknown name; ``check`` raises ValueError.

    Examples:
        >>> numbers = Registry("constant", {"pi": "math:pi", "tau": "math:tau"})
        >>> round(numbers["pi"], 2)
        3.14
        >>> numbers.check("ty")
        Traceback (most recent call last):
        ValueError: unknown constant 'ty'. Known: pi, tau.
        >>> numbers["zero"] = int
        >>> numbers["zero"]()
        0
    """

    def __init__(self, subject: str, entries: dict[str, str]) -> None:
        self.subject = subject
        self._entries: dict[str, str | Callable[..., Any]] = dict(entries)

    def check(self, name: str) -> str:
        """Returns ``name``, or raises a ValueError that lists the known names and the nearest."""
        if name not in self._entries:
            raise ValueError(unknown(self.subject, name, list(self._entries)))
        return name

    def __getitem__(self, name: str) -> Callable[..., Any]:
        entry = self._entries[name]
        if callable(entry):
            return entry
        module, attribute = entry.split(":")
        return getattr(importlib.import_module(module), attribute)  # type: ignore[no-any-return]

    def __setitem__(self, name: str, entry: str | Callable[..., Any]) -> None:
        self._entries[name] = entry

    def __delitem__(self, name: str) -> None:
        del self._entries[name]

    def __contains__(self, name: object) -> bool:
        return name in self._entries  # the inherited method would import the entry

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

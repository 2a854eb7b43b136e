"""Text of --help, from the docstrings, types and defaults of settings."""

from __future__ import annotations

import inspect
import re
import shutil
import textwrap
from dataclasses import MISSING, Field, fields
from typing import Any, Literal, get_args, get_origin, get_type_hints

from robustnorm.settings.parsing import only_in_files, positional_help

# Settings that most people use; the first ten of these that a command has are listed first.
_MOST_USED = (
    "weights",
    *("norm", "norms", "rows", "seed", "seeds", "data", "epochs", "steps", "width", "epsilon"),
    *("attacks", "checkpoint", "device", "name", "test_limit", "output", "reports"),
)
_COLUMN = 24


def help_of(command: str, summary: str, kind: type[Any]) -> str:
    """Returns the help of a command.

    Args:
        command: Name of the command.
        summary: What it does.
        kind: The dataclass of its settings, whose docstrings describe them.
    """
    about, types = _descriptions(kind), get_type_hints(kind)
    positions = positional_help(kind)
    entries = {
        field.name: _entry(field, types[field.name], about.get(field.name, ""))
        for field in fields(kind)
        if field.name not in {*positions, *only_in_files(kind)}
    }
    usage = " ".join(
        f"[{name.upper()} ...]" if text else name.upper() for name, text in positions.items()
    )
    lines = [f"usage: robustnorm {command} {usage} [--config FILE] [--SETTING VALUE ...]"]
    lines = [" ".join(lines[0].split()), "", summary]
    if positions:
        lines += ["", *(_row(n.upper(), text or about.get(n, "")) for n, text in positions.items())]
    lines += ["", "most used:", _row("--config FILE", _CONFIG)]
    first = [name for name in _MOST_USED if name in entries][:10]
    lines += [entries.pop(name) for name in first]
    for group in reversed(kind.__mro__):
        names = [name for name in vars(group).get("__annotations__", {}) if name in entries]
        if names:
            lines += ["", _title(group, kind), *(entries.pop(name) for name in names)]
    return "\n".join(lines)


_CONFIG = (
    "YAML file of settings, or the name of one that comes with the package (digits, cifar10, ...); "
    "settings on the command line take precedence."
)


def _title(group: type[Any], kind: type[Any]) -> str:
    if group is kind:
        return "specific to this command:"
    text = re.split("[.:\n]", inspect.cleandoc(group.__doc__ or ""))[0]
    return f"{text[:1].lower()}{text[1:]}:"


def _entry(field: Field[Any], kind: Any, text: str) -> str:
    if get_origin(kind) is Literal and not all(choice in text for choice in get_args(kind)):
        text += f" One of {', '.join(get_args(kind))}."
    default = field.default_factory() if field.default_factory is not MISSING else field.default
    shown = ",".join(map(str, default)) if isinstance(default, (tuple, list)) else str(default)
    if isinstance(default, bool):
        shown = shown.lower()
    return _row(f"--{field.name}", f"{text} [{shown}]" if shown not in ("None", "", "{}") else text)


def _row(left: str, text: str) -> str:
    width = min(100, shutil.get_terminal_size().columns)
    body = textwrap.wrap(text, max(20, width - _COLUMN)) or [""]
    if len(left) + 4 > _COLUMN:
        body.insert(0, "")
    body[0] = f"  {left:<{_COLUMN - 2}}{body[0]}".rstrip()
    return f"\n{'':{_COLUMN}}".join(body)


def _descriptions(kind: type[Any]) -> dict[str, str]:
    """Returns the entries in the "Args" of a class and its bases, without line breaks."""
    found = dict[str, str]()
    for base in reversed(kind.__mro__):
        _, _, section = inspect.cleandoc(base.__doc__ or "").partition("\nArgs:\n")
        for name, text in re.findall(
            r"^    (\w+): (.+(?:\n {8}.+)*)", section.partition("\n\n")[0], re.MULTILINE
        ):
            found[name] = " ".join(text.replace("``", "").split())
    return found

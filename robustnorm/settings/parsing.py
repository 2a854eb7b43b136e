"""Reads settings from a YAML file and from the command line, which takes precedence."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import MISSING, fields, replace
from importlib.resources import files
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

import yaml

from robustnorm.data import check_data
from robustnorm.models import NETWORKS
from robustnorm.norms import NORMS
from robustnorm.settings.attack_names import parse_attacks
from robustnorm.settings.config import Config
from robustnorm.settings.groups import Named
from robustnorm.settings.values import from_yaml, make, mapping
from robustnorm.system.errors import RefusedFileError
from robustnorm.system.files import exists
from robustnorm.system.registry import did_you_mean, unknown
from robustnorm.system.sealed import DamagedError, check_lines
from robustnorm.system.untrusted import check_yaml, load_yaml

_S = TypeVar("_S")


def read_words(kind: type[_S], words: Sequence[str]) -> tuple[_S, str | None]:
    """Parses the words of a command; returns the settings and the path of the config file.

    Args:
        kind: The dataclass of the settings.
        words: ``--config FILE``, ``--name value``, ``--name=value``, ``--name.key=value`` for an
            entry of a mapping, and positional values.

    Raises:
        ValueError: On anything unknown, missing, of a wrong type or out of range.
        RefusedFileError: On a config file that is damaged or unsafe to read.
    """
    options, given = split_words(kind, words)
    values: dict[str, Any] = {}
    path = None
    for name, text in options:
        if name == "config":
            path = find_config(text)
            values |= read_file(kind, path)
    for name, text in options:
        if name != "config":
            _put(kind, values, name, text)
    return _resolved(kind, values | given, path), None if path is None else str(path)


def read_config(config: str, changes: dict[str, Any]) -> Config:
    """Returns the settings of a config file, by path or name, with changes; imports no torch.

    Raises:
        ValueError: On anything unknown, of a wrong type, or out of range.
        RefusedFileError: On a config file that is damaged or unsafe to read.
    """
    path = find_config(config)
    return _resolved(Config, read_file(Config, path) | changes, path)


def typed_networks(words: Sequence[str]) -> tuple[str, ...]:
    """Returns the names after ``--network`` among the words of a command.

    Examples:
        >>> typed_networks(["--network", "a:b", "--config", "c:d", "--network=e:f,g:h"])
        ('a:b', 'e:f', 'g:h')
    """
    found = []
    for word, after in zip(
        words, (*words[1:], ""), strict=False
    ):  # the second is longer if there are none
        option, equals, text = word.partition("=")
        if option.startswith("-") and option.lstrip("-") == "network":
            found += (text if equals else after).split(",")
    return tuple(found)


def split_words(
    kind: type[Any], words: Sequence[str]
) -> tuple[list[tuple[str, str]], dict[str, Any]]:
    """Returns the options, as pairs of name and text, and the positional values.

    Raises:
        ValueError: On an option without a value, or the wrong number of positional values.
    """
    switches = {name for name, of in get_type_hints(kind).items() if of is bool}
    options: list[tuple[str, str]] = []
    given: list[str] = []
    rest = list(words)
    while rest:
        word = rest.pop(0)
        if not word.startswith("-") or word == "-":
            given.append(word)
            continue
        name, equals, text = word.lstrip("-").partition("=")
        name = name.replace("-", "_")
        if not equals:
            has_value = bool(rest) and not rest[0].startswith("--")
            if name in switches and not (
                has_value and re.fullmatch("(?i)true|false|yes|no", rest[0])
            ):
                text = "true"
            elif has_value:
                text = rest.pop(0)
            else:
                _check_offered(kind, name)
                raise ValueError(f"--{name} needs a value")
        options.append((name, text))
    return options, _assigned(kind, given)


def positional_help(kind: type[Any]) -> dict[str, str]:
    """Returns the help of the positional settings by name, "" for one without a default."""
    return {
        field.name: field.metadata.get("positional", "")
        for field in fields(kind)
        if "positional" in field.metadata
        or (field.default is MISSING and field.default_factory is MISSING)
    }


def _assigned(kind: type[Any], given: list[str]) -> dict[str, Any]:
    """Returns the positional values by the name of their setting."""
    names = positional_help(kind)
    if any(names.values()):  # one takes all words
        return {name: given for name in names if given}
    if len(given) > len(names):
        raise ValueError(
            f"unexpected word '{given[len(names)]}'; a setting is given as --name value"
        )
    return dict(zip(names, given, strict=False))


def _check_offered(kind: type[Any], name: str) -> None:
    offered = {field.name for field in fields(kind)}
    if name in only_in_files(kind):
        raise ValueError(
            f"--{name} is not a setting of this command; it may be set in a config file, which "
            "several commands share"
        )
    if name not in offered:
        raise ValueError(f"unknown setting '--{name}'{did_you_mean(name, {*offered, 'config'})}")


def only_in_files(kind: type[Any]) -> frozenset[str]:
    """Returns the settings that a config file may contain but the command does not offer."""
    return getattr(kind, "only_in_files", frozenset[str]())


def _put(kind: type[Any], values: dict[str, Any], option: str, text: str) -> None:
    """Sets a value, or an entry of a mapping for "name.key"."""
    name, *keys = option.split(".")
    _check_offered(kind, name)
    if not keys:
        values[name] = text
        return
    entries = values
    for key in (name, *keys[:-1]):
        entries[key] = dict(mapping(entries.get(key, {}), key))
        entries = entries[key]
    entries[keys[-1]] = from_yaml(text)


def read_file(kind: type[Any], path: Path) -> dict[str, Any]:
    """Returns the values of a config file that are settings of ``kind``.

    Raises:
        ValueError: When there is no such file, or it holds an unknown setting.
        RefusedFileError: When it is damaged or unsafe to read.
    """
    if not exists(path) or not path.is_file():
        raise ValueError(
            f"there is no config file {path}; give the path of a YAML file, or a name: "
            f"{', '.join(_packaged())}"
        )
    check_yaml(path)
    try:
        check_lines(data := path.read_bytes())
        values = load_yaml(data)
    except DamagedError as error:
        raise RefusedFileError(
            f"{path} is damaged: {error}; remove that line if you changed other lines"
        ) from error
    except (ValueError, yaml.YAMLError) as error:  # such as a list as a key
        raise RefusedFileError(
            f"{path} is not a YAML file of settings ({' '.join(str(error).split())})"
        ) from error
    if not isinstance(values, dict):
        found = "none" if values is None else type(values).__name__
        raise ValueError(f"{path} must hold lines such as 'epochs: 30', got {found}")
    offered = {field.name for field in fields(kind)}
    for name in values:
        if name not in offered | only_in_files(kind):
            hint = did_you_mean(name, offered)
            raise ValueError(f"{path} has the unknown setting '{name}'{hint}")
    taken = offered - getattr(kind, "other_in_files", frozenset())
    return {name: value for name, value in values.items() if name in taken}


def find_config(name: str) -> Path:
    """Returns the path of the packaged config of that name, or the given path.

    Raises:
        ValueError: On an unknown name.
    """
    if not re.fullmatch(r"[\w-]+", name):
        return Path(name)
    known = _packaged()
    if name not in known:
        raise ValueError(unknown("config", name, list(known)) + " Or give the path of a YAML file.")
    here = Path.cwd()
    return known[name].relative_to(here) if known[name].is_relative_to(here) else known[name]


def _packaged() -> dict[str, Path]:
    checkout = Path(__file__).parents[2] / "configs"
    folder = checkout if checkout.is_dir() else Path(str(files("robustnorm"))) / "configs"
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))}


def _resolved(kind: type[_S], values: dict[str, Any], path: Path | None) -> _S:
    """Returns the settings after checking the names in them, with the default name filled in."""
    settings = make(kind, values)
    if isinstance(settings, Config):
        NORMS.check(settings.norm)
        NETWORKS.check(settings.network)
        check_data(settings.data)
        parse_attacks(settings.attacks)
    if isinstance(settings, Named) and settings.name is None:
        settings = replace(settings, name=settings.name_in(path))
    return settings

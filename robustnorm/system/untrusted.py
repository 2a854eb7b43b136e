"""Reading JSON, YAML, names and numbers from untrusted sources safely."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Hashable
from fractions import Fraction
from pathlib import Path, PurePosixPath
from typing import Any

import yaml

from robustnorm.system.errors import RefusedFileError

# The package's largest config has 2 kB; parsing a megabyte of YAML takes seconds.
MOST_YAML_BYTES = 64_000
_MOST_YAML_DEPTH = 20
# Pixels of an image: networks take far fewer, and a few kilobytes can encode many more.
MOST_PIXELS = 2**24
# Real images decode to less than 100 times their size, and archives of them to little more than
# their own; decompression bombs expand to a million times theirs.
_MOST_RATIO = 100
_MOST_BYTES, _MOST_DECODED = 16_000_000, 256_000_000
# YAML's implicit types that keep its own rules.
_KEPT = frozenset({"bool", "null", "merge"})
_MOST_MEMBERS, _BYTES_A_MEMBER = 1_000, 50
# Nested folders, and bytes of a path; file systems allow no more, either.
MOST_DEPTH, _MOST_NAME = 16, 4_096
# Each takes at least a microsecond; the longest real list holds the step losses of a long epoch.
_MOST_VALUES = 500_000


def most_bytes(size: int) -> int:
    """Returns how many bytes a compressed file may hold: 16 MB plus 100 times its size."""
    return _MOST_BYTES + _MOST_RATIO * size


def most_decoded(size: int) -> int:
    """Returns how many bytes images may decode to: 256 MB plus 100 times their size."""
    return _MOST_DECODED + _MOST_RATIO * size


def most_members(size: int) -> int:
    """Returns how many files an archive may hold: 1,000 plus one for every 50 bytes of its size."""
    return _MOST_MEMBERS + size // _BYTES_A_MEMBER


def parse_json(text: str | bytes) -> Any:
    """Parses JSON; refuses duplicate keys, and more than half a million values.

    Raises:
        ValueError: On anything else, and on JSON that is nested too deeply.

    Examples:
        >>> parse_json('{"epoch": 1, "epoch": 2}')
        Traceback (most recent call last):
        ValueError: the key 'epoch' appears twice
    """
    data = text.encode(errors="surrogatepass") if isinstance(text, str) else text
    if sum(map(data.count, (b",", b"[", b"{"))) > _MOST_VALUES:
        raise ValueError(f"it has more than {_MOST_VALUES:,} values")
    try:
        return json.loads(text, object_pairs_hook=_object)
    except RecursionError:
        raise ValueError("its values are nested too deeply") from None


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict[str, Any]()
    for key, value in pairs:
        if key in values:
            raise ValueError(f"the key '{key[:80]}' appears twice")
        values[key] = value
    return values


def check_yaml(path: Path) -> None:
    """Raises a RefusedFileError unless a settings file is small and holds plain values only.

    Tags can name Python objects, and a few nested aliases can expand to billions of values. Does
    not check that the values are settings, nor that the file exists.
    """
    try:
        text = path.read_bytes() if (size := path.stat().st_size) <= MOST_YAML_BYTES else b""
    except OSError:
        return
    required = "plain values are required, without tags, anchors and aliases"
    if size > MOST_YAML_BYTES:
        raise RefusedFileError(f"{path} has {size} bytes; settings have at most {MOST_YAML_BYTES}")
    depth = 0
    try:
        for event in yaml.parse(text, yaml.SafeLoader):
            depth += isinstance(event, yaml.CollectionStartEvent)
            depth -= isinstance(event, yaml.CollectionEndEvent)
            found = getattr(event, "anchor", None) or getattr(event, "tag", None)
            if found is not None:
                raise RefusedFileError(f"{path} has '{found[:80]}'; {required}")
            if depth > _MOST_YAML_DEPTH:
                raise RefusedFileError(f"{path} is nested deeper than {_MOST_YAML_DEPTH}")
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        reason = " ".join(str(error).split())
        raise RefusedFileError(f"{path} is not YAML ({reason}); {required}") from error


class _Loader(yaml.SafeLoader):
    """Loads values as people read them: unique keys, decimal whole numbers, no dates."""

    yaml_implicit_resolvers = {  # noqa: RUF012 (as in the base class)
        first: [(tag, regexp) for tag, regexp in resolvers if tag.rpartition(":")[2] in _KEPT]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        twice = Counter(key for key in keys if isinstance(key, Hashable))
        for key in twice:
            if twice[key] > 1:
                raise ValueError(f"the key '{str(key)[:80]}' appears twice")
        found: dict[Any, Any] = super().construct_mapping(node, deep)
        return found

    def construct_decimal(self, node: Any) -> float:
        text = str(self.construct_scalar(node))
        number = float(text)
        if number == 0 and re.search("[1-9]", re.split("[eE]", text)[0]):
            raise ValueError(f"{text[:80]} is too close to 0 for a number")
        return number


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:int", re.compile("[-+]?(0|[1-9][0-9]{0,30})$"), list("-+0123456789")
)
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"[-+]?([0-9]+\.[0-9]*|\.[0-9]+|[0-9]+(?=[eE]))([eE][-+]?[0-9]+)?$"),
    list("-+.0123456789"),
)
_Loader.add_constructor("tag:yaml.org,2002:float", _Loader.construct_decimal)


def load_yaml(text: str | bytes) -> Any:
    """Parses YAML; ``010``, ``1:30``, ``0x10``, ``1_000`` and dates are text, as is ``.inf``.

    Raises:
        ValueError, yaml.YAMLError: On anything else, a key given twice, or a number so close to
            0 that a float would be 0.

    Examples:
        >>> load_yaml("{epochs: 010, time: 1:30, rate: 1e-3, limit: null}")
        {'epochs': '010', 'time': '1:30', 'rate': 0.001, 'limit': None}
    """
    return yaml.load(text, _Loader)


def is_inside(name: str) -> bool:
    r"""Returns whether a relative path stays inside its folder.

    Examples:
        >>> [is_inside(name) for name in ("a/b.json", "/a", "a/../../b", "..\\a", "")]
        [True, False, False, False, False]
    """
    path = PurePosixPath(name)
    return bool(path.parts) and not (path.is_absolute() or ".." in path.parts or "\\" in name)


def check_member(name: str) -> None:
    """Raises a ValueError on a name that leads outside its folder, is too deep or too long."""
    if not is_inside(name):
        raise ValueError(f"{name[:80]} leads outside")
    if name.count("/") > MOST_DEPTH:
        raise ValueError(f"{name[:80]} is nested deeper than {MOST_DEPTH} folders")
    if len(name.encode(errors="surrogateescape")) > _MOST_NAME:
        raise ValueError(f"{name[:80]}... has a name of more than {_MOST_NAME:,} bytes")


def parse_fraction(value: object) -> Fraction:
    """Parses a number written as 8/255 or 0.03.

    Raises:
        ValueError: On anything else, and on huge exponents, which would exhaust memory.

    Examples:
        >>> parse_fraction("8/255"), parse_fraction(0.5)
        (Fraction(8, 255), Fraction(1, 2))
    """
    text = str(value)
    try:
        if re.search(r"e[-+]?[\d_]{4}", text, re.IGNORECASE) or len(text) > 100:
            raise ValueError
        number = Fraction(text)
        if not number or float(number):  # neither too large nor too close to 0 for a float
            return number
        raise ValueError
    except (ValueError, ZeroDivisionError, OverflowError):
        raise ValueError(f"a number such as 8/255 or 0.03 is required, got '{text[:80]}'") from None

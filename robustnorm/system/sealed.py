"""Plain values stored with their own hash, so that damage is found when they are read again."""

from __future__ import annotations

import hashlib
import json
import logging
from functools import cache
from pathlib import Path
from typing import Any

from robustnorm.system.untrusted import parse_json

log = logging.getLogger("robustnorm")

_SEAL = "seal"
_MARK = b"# sha256 of the lines below; remove this one to change them: "


class DamagedError(ValueError):
    """The values are not those that were written."""


def seal(content: dict[str, Any]) -> dict[str, Any]:
    """Returns plain values with their hash, the sha256 of their canonical JSON, as the last entry.

    Examples:
        >>> unseal(seal({"epoch": 1}))
        ({'epoch': 1}, True)
        >>> unseal(seal({"epoch": 1}) | {"epoch": 2})
        Traceback (most recent call last):
        robustnorm.system.sealed.DamagedError: its content does not match its hash
    """
    plain = json.loads(json.dumps(content))  # tuples as lists, keys as text
    return content | {_SEAL: _hash(plain)}


def unseal(content: dict[str, Any], *, required: bool = False) -> tuple[dict[str, Any], bool]:
    """Returns what ``seal`` was given, and whether there was a hash to check it by.

    Args:
        content: As parsed from JSON.
        required: Whether to refuse values without a hash, as old versions wrote them.

    Raises:
        DamagedError: When the hash differs, or is required and missing.
    """
    if not isinstance(content, dict) or (required and _SEAL not in content):
        raise DamagedError("it carries no hash")
    values = {key: value for key, value in content.items() if key != _SEAL}
    if _SEAL in content and content[_SEAL] != _hash(values):
        raise DamagedError("its content does not match its hash")
    return values, _SEAL in content


def read_sealed(path: Path) -> dict[str, Any]:
    """Returns the values in a JSON file; logs once per folder that it has files without a hash.

    Raises:
        OSError, ValueError: When it cannot be read, or is damaged.
    """
    content, sealed = unseal(parse_json(path.read_bytes()))
    if not sealed:
        _log_unsealed(path.parent)
    return content


@cache
def _log_unsealed(folder: Path) -> None:
    log.info("%s has files without a hash: they were written before files had one", folder)


def seal_lines(text: str) -> bytes:
    """Returns lines for people to read, such as YAML, below a comment with their hash."""
    data = text.encode()
    return _MARK + hashlib.sha256(data).hexdigest().encode() + b"\n" + data


def check_lines(data: bytes) -> None:
    """Raises a DamagedError when lines are not those that ``seal_lines`` was given."""
    head, _, rest = data.partition(b"\n")
    if head.startswith(_MARK[:8]) and head != _MARK + hashlib.sha256(rest).hexdigest().encode():
        raise DamagedError("its lines do not match the hash in the first one")


def _hash(content: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

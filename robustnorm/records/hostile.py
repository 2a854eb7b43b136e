"""What a record from elsewhere may not hold, before anything is made of it."""

from __future__ import annotations

from typing import Any

from robustnorm.system.escaping import for_terminal
from robustnorm.system.names import check_name


def check_text(value: Any) -> None:
    """Raises a ValueError on a text, at any depth, that a terminal would obey."""
    if isinstance(value, str) and for_terminal(value) != value:
        raise ValueError(f"it holds a control character, in '{for_terminal(value)[:80]}'")
    for entry in value.values() if isinstance(value, dict) else ():
        check_text(entry)
    for entry in [*value] if isinstance(value, (list, dict)) else ():
        check_text(entry)


def check_paths(content: dict[str, Any]) -> None:
    """Raises a ValueError when a name that becomes part of a path is not allowed."""
    config, images = content["config"], content.get("images", {})
    names = [content["checkpoint"]["tag"], content["norm"], *content.get("sources", {})]
    names += [config[name] for name in ("norm", "checkpoint") if name in config]
    names += [images["folder"], *images["files"]] if images else []
    for name in names:
        check_name("each name in it", name)
    check_name("its name", content["name"], nested=True)

"""Names of configs, plans, runs, branches, ... that become names of files and folders."""

from __future__ import annotations

from robustnorm.system.escaping import for_terminal

# Bytes: file systems allow 255, and a file's name may join several names, a tag and a suffix.
MOST = 100
# What Windows takes for a device, with any extension.
_PORTS = {f"{port}{number}" for port in ("com", "lpt") for number in range(1, 10)}
_DEVICES = {"con", "prn", "aux", "nul"} | _PORTS
# Folders that the package makes within a name's folder, where a nested name may not end up.
_RESERVED = {"records", "jobs", "gradients", "referee"}


def check_name(what: str, name: object, *, nested: bool = False) -> None:
    """Raises a ValueError unless a file or folder can have the name and it stays in its parent.

    Args:
        what: What the name is for; begins the message.
        name: The name.
        nested: Whether it may be several names joined by "/", for folders within folders.

    Examples:
        >>> check_name("name", "paper/best", nested=True)
        >>> check_name("name", "x/../y", nested=True)
        Traceback (most recent call last):
        ValueError: name must be a name for a folder or file, got 'x/../y': it contains '..'
    """
    text = name if isinstance(name, str) else ""
    for part in text.split("/") if nested else [text]:
        if reason := _fault(part):
            shown = repr(name) if len(repr(name)) < 60 else f"{repr(name)[:60]}..."
            raise ValueError(f"{what} must be a name for a folder or file, got {shown}: {reason}")


def _fault(part: str) -> str:
    """Returns why a name is not allowed, or "" if it is."""
    size = len(part.encode(errors="replace"))
    if not part:
        return "it is empty, or has an empty component"
    if size > MOST:
        return f"it has {size} bytes, more than {MOST}"
    if part != for_terminal(part) or not part.isprintable():
        return "it has a character that cannot be printed"
    if "/" in part or "\\" in part:
        return "it has a slash"
    if part != part.strip(" ."):
        return "it contains '..'" if part == ".." else "it begins or ends with a dot or space"
    if part.partition(".")[0].lower() in _DEVICES or part in _RESERVED:
        return f"'{part}' is reserved"
    return ""

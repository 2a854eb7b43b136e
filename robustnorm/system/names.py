"""Names that become files and folders: of configs, plans, runs, branches, checkpoints, records."""

from __future__ import annotations

from robustnorm.system.escaping import for_terminal

# Bytes: file systems take 255, and several names, a tag and a suffix are joined into one.
MOST = 100
# What Windows takes for a device, whatever follows after a dot.
_PORTS = {f"{port}{number}" for port in ("com", "lpt") for number in range(1, 10)}
_DEVICES = {"con", "prn", "aux", "nul"} | _PORTS
# Folders beside the tables of a name; one more name below it must not be taken for them.
_OWN = {"records", "jobs", "gradients", "referee"}


def check_name(what: str, name: object, *, nested: bool = False) -> None:
    """Raises a ValueError unless a file or folder can have the name, and it leads nowhere else.

    Args:
        what: What is named, for the message.
        name: The name.
        nested: Whether it may be names of folders in folders, joined by "/".

    Examples:
        >>> check_name("name", "paper/best", nested=True)
        >>> check_name("name", "x/../y", nested=True)
        Traceback (most recent call last):
        ValueError: name must be a name for a folder or file, got 'x/../y': it has a part '..'
    """
    text = name if isinstance(name, str) else ""
    for part in text.split("/") if nested else [text]:
        if reason := _fault(part):
            shown = repr(name) if len(repr(name)) < 60 else f"{repr(name)[:60]}..."
            raise ValueError(f"{what} must be a name for a folder or file, got {shown}: {reason}")


def _fault(part: str) -> str:
    """Returns why a name is not allowed, "" for one that is."""
    size = len(part.encode(errors="replace"))
    if not part:
        return "it is empty, or has an empty part"
    if size > MOST:
        return f"it has {size} bytes, of at most {MOST}"
    if part != for_terminal(part) or not part.isprintable():
        return "it has a character that cannot be shown"
    if "/" in part or "\\" in part:
        return "it has a slash"
    if part != part.strip(" ."):
        outside = "it has a part '..'"
        return outside if part == ".." else "it begins or ends with a dot or space"
    if part.partition(".")[0].lower() in _DEVICES or part in _OWN:
        return f"'{part}' is reserved"
    return ""

"""Finding a device by its name, and naming a device in reports."""

from __future__ import annotations

import torch

from robustnorm.system.errors import UsageError
from robustnorm.system.source import versions


def resolve_device(name: str) -> torch.device:
    """Returns the device of that name; "auto" is a GPU if there is one.

    Raises:
        UsageError: When there is no such device.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise UsageError(f"device '{name}' cannot be used ({reason}); try --device cpu") from error
    return torch.device(name)


def device_name(device: torch.device) -> str:
    """Returns a device's name for reports."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"CPU, {torch.get_num_threads()} threads ({torch.backends.cpu.get_cpu_capability()})"


def made_by(device: torch.device) -> dict[str, str]:
    """Returns what the last bits of a result depend on: versions, the device and its threads."""
    return versions() | {"device": device_name(device)}

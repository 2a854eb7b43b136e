"""Takes a training step again that was not finite."""

from __future__ import annotations

from pathlib import Path

from robustnorm.runs.run import resolve_device
from robustnorm.settings.replay import ReplaySettings
from robustnorm.system.errors import CheckFailed
from robustnorm.training.replay import read_replay, replay


def replay_step(settings: ReplaySettings, config_path: str | None = None) -> str:
    """Takes the step of a replay file again; returns where it stops being finite.

    Args:
        settings: The file, and where to compute.
        config_path: Not used; every command takes one.

    Raises:
        CheckFailed: When the step now comes to something else.
        RefusedFileError: When the file is another one.
        UsageError: When there is no such device.
    """
    device = resolve_device(settings.device)
    content, tensors = read_replay(Path(settings.file))
    found = replay(content, tensors, device)
    step = f"Step {content['step']} of epoch {content['epoch']}"
    if found.what != content["not_finite"]:
        raise CheckFailed(
            f"{step}: in the run the {content['not_finite']} was not finite, here "
            f"{f'the {found.what} is not ({found.where})' if found.what else 'all is'}; another "
            "device or version may compute otherwise"
        )
    return f"{step}: the {found.what} is not finite, as in the run. It begins with {found.where}."

"""Checks the manifest of a run's checkpoint before it is used."""

from __future__ import annotations

from typing import Any

from robustnorm.runs.checkpoint import CheckpointError
from robustnorm.system.structure import check_structure, count, finite

# What a manifest holds besides its file's hash; that of imported weights has an empty history.
_STRUCTURE = {
    "epoch": count,
    "config": {"*": object},
    "dataset": {
        **dict.fromkeys(("name", "sha256"), str),
        "classes": [str],
        "channels": count,
        "image_size?": [count],
        **{name: [finite] for name in ("mean", "std")},
        "train_images": count,
        "test_images?": count,
        "*": object,
    },
    "history": [
        {"epoch": count, "validation?": {"*": {"sa": float, "*": object}}, "*": object},
    ],
    "best?": float,
    "within_epoch?": ({"losses": [[float]], "seconds": finite}, {}),
    "processes?": {"*": count},
    "versions?": {"*": str},
    "network_source?": {"*": str},
    "imported?": {**dict.fromkeys(("file", "sha256", "layout"), str), "*": object},
    "*": object,
}


def check_manifest(manifest: dict[str, Any], where: str) -> None:
    """Raises a CheckpointError that names ``where`` unless a manifest is that of a run."""
    try:
        check_structure(manifest, _STRUCTURE)
        data = manifest["dataset"]
        if {len(data[name]) for name in ("mean", "std")} != {data["channels"]}:
            raise ValueError("mean and std must have one number per channel")
        if not data["classes"] or not data["channels"]:
            raise ValueError("classes and channels must be one or more")
    except ValueError as error:
        raise CheckpointError(
            f"{where} is not a run of robustnorm train or import ({error}): name another folder or "
            "--name, or train again if it is damaged"
        ) from error

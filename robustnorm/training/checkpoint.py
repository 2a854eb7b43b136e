"""Checkpoints: tensors as safetensors, all else as a JSON manifest that holds their hash."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn

from robustnorm.errors import RefusedFileError, UsageError
from robustnorm.files import write_atomically
from robustnorm.untrusted import parse_json
from robustnorm.weights import check_weights

_FORMAT = 1
_MODEL = "model."
_MOMENTUM = "momentum."


class CheckpointError(RefusedFileError):
    """A checkpoint is missing, damaged, or of another network; the message says what to do."""


@dataclass(frozen=True)
class Checkpoint:
    """What was saved: ``tensors`` by name and ``manifest``, with the file's ``sha256``."""

    tensors: dict[str, Tensor]
    manifest: dict[str, Any]
    sha256: str


def save_checkpoint(
    folder: Path,
    tag: str,
    model: nn.Module,
    manifest: dict[str, Any],
    optimizer: torch.optim.Optimizer | None = None,
) -> None:
    """Writes ``tag`` so that a kill at any moment leaves the former or the new one whole.

    The tensors' file is named by its content and written first; the manifest, which names it, is
    then replaced in one step; files that no manifest names any more are removed last.

    Args:
        folder: Of the run; made if need be.
        tag: ``"last"``, ``"best"`` or ``"epoch"`` and a number.
        model: Its state_dict is saved.
        manifest: JSON values.
        optimizer: Its momentum is saved, for a run that may be continued.
    """
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {_MODEL + name: value for name, value in model.state_dict().items()}
    if optimizer is not None:
        tensors |= {_MOMENTUM + name: value for name, value in _momentum(model, optimizer).items()}
    data = save({name: value.detach().cpu().contiguous() for name, value in tensors.items()})
    digest = hashlib.sha256(data).hexdigest()
    file = f"{tag}-{digest[:12]}.safetensors"
    write_atomically(folder / file, data)
    content = {"format": _FORMAT, "file": file, "sha256": digest, "bytes": len(data)}
    text = json.dumps(content | manifest, indent=1)
    write_atomically(folder / f"{tag}.json", text.encode())
    for old in folder.glob(f"{tag}-*.safetensors"):
        if old.name != file:
            old.unlink()


def read_manifest(folder: Path, tag: str) -> dict[str, Any] | None:
    """Returns the manifest of ``tag``, None when there is none.

    Raises:
        CheckpointError: When it cannot be read.
    """
    path = folder / f"{tag}.json"
    if not path.exists():
        return None
    try:
        manifest: dict[str, Any] = parse_json(path.read_text())
        complete = {"format", "file", "sha256", "config", "dataset"} <= manifest.keys()
    except (ValueError, AttributeError):
        complete = False
    if not complete or manifest["format"] != _FORMAT:
        raise CheckpointError(
            f"{path} is not a checkpoint manifest of format {_FORMAT}; "
            f"remove it, or the whole run in {folder}, and train again"
        )
    return manifest


def load_checkpoint(folder: Path, tag: str) -> Checkpoint:
    """Returns the checkpoint ``tag`` of a run, its hash checked.

    Raises:
        UsageError: When there is none.
        CheckpointError: When it is not what was written.
    """
    manifest = read_manifest(folder, tag)
    if manifest is None:
        raise UsageError(f"no checkpoint '{tag}' in {folder}")
    path = folder / Path(manifest["file"]).name
    try:
        data = path.read_bytes()
        if hashlib.sha256(data).hexdigest() != manifest["sha256"]:
            raise CheckpointError(
                f"{path} is damaged: its sha256 is not the one in {tag}.json; "
                "restore it, or remove the run and train again"
            )
        return Checkpoint(load(data), manifest, manifest["sha256"])
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path} cannot be read ({error}); train again") from error


def check_fits(checkpoint: Checkpoint, model: nn.Module) -> None:
    """Raises a CheckpointError unless ``model``, which may be on the meta device, can take it."""
    try:
        check_weights(_part(checkpoint.tensors, _MODEL), model, "the checkpoint")
    except RefusedFileError as error:
        raise CheckpointError(str(error)) from error


def restore(
    checkpoint: Checkpoint, model: nn.Module, optimizer: torch.optim.Optimizer | None = None
) -> None:
    """Copies a checkpoint into ``model`` and, if given, the momentum into ``optimizer``.

    Raises:
        CheckpointError: When the weights are not such as the model takes; nothing is copied then.
    """
    check_fits(checkpoint, model)
    model.load_state_dict(_part(checkpoint.tensors, _MODEL))
    if optimizer is not None:
        momentum = _part(checkpoint.tensors, _MOMENTUM)
        for name, parameter in model.named_parameters():
            if name in momentum:
                buffer = torch.empty_like(parameter).copy_(momentum[name])
                optimizer.state[parameter]["momentum_buffer"] = buffer


def _momentum(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    buffers = {
        name: optimizer.state[parameter].get("momentum_buffer")
        for name, parameter in model.named_parameters()
        if parameter in optimizer.state
    }
    return {name: buffer for name, buffer in buffers.items() if buffer is not None}


def _part(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {
        name.removeprefix(prefix): value
        for name, value in tensors.items()
        if name.startswith(prefix)
    }

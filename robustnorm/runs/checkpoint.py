"""Checkpoints: tensors as safetensors, all else as a JSON manifest that holds their hash."""

from __future__ import annotations

import hashlib
import json
import logging
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn

from robustnorm.models.weights import check_weights
from robustnorm.runs.random_states import random_states, set_random_states
from robustnorm.system.errors import RefusedFileError, UsageError
from robustnorm.system.files import write_atomically
from robustnorm.system.untrusted import parse_json

# 1 had no hash of the manifest and no random states; it can still be read.
_FORMAT = 2
_MODEL = "model."
_MOMENTUM = "momentum."  # SGD's, under the parameter's name
_OPTIMIZER = "optimizer."  # what another optimizer keeps: its name for it, then the parameter's
_RANDOM = "random."
_REQUIRED = {"format", "file", "sha256", "bytes", "config", "dataset"}

log = logging.getLogger("robustnorm")


class CheckpointError(RefusedFileError):
    """A checkpoint is missing, damaged, or of another network; the message says what to do."""


@dataclass(frozen=True)
class Checkpoint:
    """What was saved: ``tensors`` by name, mapped from their file, ``manifest`` and ``sha256``.

    The tensors stay as they were checked, though a training that goes on replaces the file.
    """

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
    then replaced in one step; files that no manifest names any more are removed last. The former
    "last", if it is whole, stays beside the new one.

    Args:
        folder: Of the run; made if need be.
        tag: ``"last"``, ``"best"`` or ``"epoch"`` and a number.
        model: Its state_dict is saved.
        manifest: JSON values.
        optimizer: What it keeps of each parameter and the global random states are saved, for a
            run that may be continued.

    Raises:
        DiskError: When the disk is full or read-only; what was saved before is left whole.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for half_written in folder.glob(f".{tag}-*.tmp"):
        half_written.unlink()
    data = save(state_tensors(model, optimizer))
    digest = hashlib.sha256(data).hexdigest()
    file = f"{tag}-{digest[:12]}.safetensors"
    write_atomically(folder / file, data)
    content = {"format": _FORMAT, "file": file, "sha256": digest, "bytes": len(data)} | manifest
    path, *former = _manifests(folder, tag)
    if former and _is_whole(path):
        write_atomically(former[0], path.read_bytes())
    write_atomically(path, manifest_bytes(content))
    named = {file, *(_named_file(each) for each in former)}
    for old in folder.glob(f"{tag}-*.safetensors"):
        if old.name not in named:
            old.unlink()


def manifest_bytes(content: dict[str, Any]) -> bytes:
    """Returns a manifest as it is written, with a hash of its own content."""
    digest = hashlib.sha256(json.dumps(content).encode()).hexdigest()
    return json.dumps(content | {"manifest_sha256": digest}, indent=1).encode()


def load_checkpoint(folder: Path, tag: str) -> Checkpoint:
    """As ``find_checkpoint``, but raises a UsageError when there is none."""
    checkpoint = find_checkpoint(folder, tag)
    if checkpoint is None:
        raise UsageError(f"no checkpoint '{tag}' in {folder}")
    return checkpoint


def read_history(folder: Path) -> list[dict[str, Any]] | None:
    """Returns the history in the newest manifest of "last" that is whole; None without one."""
    for path in _manifests(folder, "last"):
        try:
            history: list[dict[str, Any]] = _read_manifest(path)["history"]
        except (CheckpointError, KeyError):
            continue
        return history
    return None


def check_fits(checkpoint: Checkpoint, model: nn.Module) -> None:
    """Raises a CheckpointError unless ``model``, which may be on the meta device, can take it."""
    try:
        check_weights(_part(checkpoint.tensors, _MODEL), model, "the checkpoint")
    except RefusedFileError as error:
        raise CheckpointError(str(error)) from error


def restore(
    checkpoint: Checkpoint, model: nn.Module, optimizer: torch.optim.Optimizer | None = None
) -> None:
    """Copies a checkpoint into ``model`` and, if given, into ``optimizer``.

    With an optimizer the run goes on, so the global random states are set, too.

    Raises:
        CheckpointError: When the weights are not such as the model takes; nothing is copied then.
    """
    check_fits(checkpoint, model)
    model.load_state_dict(_part(checkpoint.tensors, _MODEL))
    if optimizer is not None:
        momentum = _part(checkpoint.tensors, _MOMENTUM)
        others = _part(checkpoint.tensors, _OPTIMIZER)
        for name, parameter in model.named_parameters():
            kept = {"momentum_buffer": momentum[name]} if name in momentum else {}
            for key, value in others.items():
                what, _, of = key.partition(".")
                if of == name:
                    kept[what] = value
            for what, value in kept.items():  # a count of steps has no shape and stays on the CPU
                like = torch.empty_like(parameter if value.dim() else value)
                optimizer.state[parameter][what] = like.copy_(value)
        set_random_states(_part(checkpoint.tensors, _RANDOM), _device(model))


def _manifests(folder: Path, tag: str) -> list[Path]:
    """Returns the paths of a tag's manifests, the newest first: two of "last", one of others."""
    paths = [folder / f"{tag}.json"]
    return [*paths, folder / f"{tag}-previous.json"] if tag == "last" else paths


def find_checkpoint(folder: Path, tag: str) -> Checkpoint | None:
    """Returns the checkpoint ``tag`` of a run, its size and hash checked; None when there is none.

    A damaged "last" is named in a warning, and the one before it is taken.

    Raises:
        CheckpointError: When none is whole.
    """
    paths = [path for path in _manifests(folder, tag) if path.exists()]
    damages = []
    for path in paths:
        try:
            manifest, tensors = _check(path)
        except CheckpointError as error:
            damages.append(str(error))
            continue
        if damages:
            epoch = manifest.get("epoch")
            _warn_once(f"{damages[0]}; the one before it, of epoch {epoch}, is used instead")
        try:
            return Checkpoint(load_file(tensors), manifest, manifest["sha256"])
        except (SafetensorError, OSError) as error:  # its hash is right: it was not written here
            raise CheckpointError(
                f"{tensors} cannot be read as safetensors ({error}); train again"
            ) from error
    if not paths:
        return None
    raise CheckpointError(
        f"{'; '.join(damages)}; copy a whole one there"
        + (", evaluate --checkpoint last" if tag != "last" else "")
        + f", or remove the run in {folder} and train again"
    )


def _check(path: Path) -> tuple[dict[str, Any], Path]:
    """Returns a manifest and the file of the tensors that it names, both checked.

    Raises:
        CheckpointError: When one of them is not what was written.
    """
    manifest = _read_manifest(path)
    tensors = path.parent / Path(str(manifest["file"])).name
    try:
        size = tensors.stat().st_size
        if size != manifest["bytes"]:
            raise CheckpointError(
                f"{tensors} is damaged: {manifest['bytes']:,} bytes were written, it has {size:,}"
            )
        with tensors.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise CheckpointError(f"{tensors} cannot be read ({error.strerror})") from error
    if digest != manifest["sha256"]:
        raise CheckpointError(f"{tensors} is damaged: its sha256 is not the one in {path.name}")
    return manifest, tensors


def _read_manifest(path: Path) -> dict[str, Any]:
    """Returns a manifest, every byte of it checked."""
    try:
        data = path.read_bytes()
        manifest: dict[str, Any] = parse_json(data)
        complete = manifest.keys() >= _REQUIRED
    except (OSError, ValueError, AttributeError):
        complete = False
    if not complete:
        raise CheckpointError(f"{path} is not a checkpoint manifest")
    digest = manifest.pop("manifest_sha256", None)
    if manifest["format"] == 1 and digest is None:
        return manifest
    if manifest_bytes(manifest) != data:
        raise CheckpointError(f"{path} is damaged: its content does not fit its manifest_sha256")
    if manifest["format"] != _FORMAT:
        raise CheckpointError(
            f"{path} is of format {manifest['format']}, this version reads 1 to {_FORMAT}"
        )
    return manifest


def _is_whole(path: Path) -> bool:
    try:
        _check(path)
    except CheckpointError:
        return False
    return True


def _named_file(path: Path) -> str | None:
    """Returns the tensors' file that a manifest names, None where there is no such manifest."""
    try:
        return str(_read_manifest(path)["file"])
    except CheckpointError:
        return None


@cache
def _warn_once(message: str) -> None:
    log.warning("%s", message)


def state_tensors(
    model: nn.Module, optimizer: torch.optim.Optimizer | None = None
) -> dict[str, Tensor]:
    """Returns what a checkpoint keeps of them, by name, on the CPU; ``restore`` puts it back."""
    tensors = {_MODEL + name: value for name, value in model.state_dict().items()}
    if optimizer is not None:
        tensors |= _optimizer_tensors(model, optimizer)
        states = random_states(_device(model))
        tensors |= {_RANDOM + name: value for name, value in states.items()}
    return {name: value.detach().cpu().contiguous() for name, value in tensors.items()}


def _device(model: nn.Module) -> torch.device:
    return next(model.parameters()).device


def _optimizer_tensors(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Returns the tensors that an optimizer keeps of each parameter, by what and by parameter."""
    return {
        (_MOMENTUM if what == "momentum_buffer" else f"{_OPTIMIZER}{what}.") + name: value
        for name, parameter in model.named_parameters()
        for what, value in optimizer.state.get(parameter, {}).items()
        if isinstance(value, Tensor)
    }


def _part(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {
        name.removeprefix(prefix): value
        for name, value in tensors.items()
        if name.startswith(prefix)
    }

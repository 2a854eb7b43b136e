"""Checkpoints: tensors as safetensors, everything else in a JSON manifest with their hash."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn

from robustnorm.models.weights import check_weights, without_shared_memory
from robustnorm.runs.random_states import random_states, set_random_states
from robustnorm.system.errors import RefusedFileError, UsageError, UserError
from robustnorm.system.files import disk_errors, write_atomically
from robustnorm.system.locks import check_held
from robustnorm.system.memory import is_out_of_memory
from robustnorm.system.names import check_name
from robustnorm.system.structure import check_structure, count
from robustnorm.system.untrusted import parse_json

# Format 1 had no hash of the manifest and no random states; it can still be read.
_FORMAT = 2
_MODEL = "model."
_MOMENTUM = "momentum."  # SGD's buffers; followed by the parameter's name
_OPTIMIZER = "optimizer."  # other optimizers' state; followed by its name and the parameter's
_RANDOM = "random."
# What every manifest holds.
_STRUCTURE = {
    **{"format": int, "file": str, "sha256": str, "bytes": count},
    **{"config": object, "dataset": object, "*": object},
}

log = logging.getLogger("robustnorm")


class CheckpointError(RefusedFileError):
    """A checkpoint is missing, damaged, or of another network."""


@dataclass(frozen=True)
class Checkpoint:
    """A loaded checkpoint: ``tensors`` by name, ``manifest`` and the tensors' ``sha256``.

    The tensors are mapped from their file, and stay valid even if continued training replaces it.
    """

    tensors: dict[str, Tensor]
    manifest: dict[str, Any]
    sha256: str

    def has_weights_of(self, other: Checkpoint) -> bool:
        """Returns whether both hold the same network, bit by bit."""
        mine, its = (_with_prefix(each.tensors, _MODEL) for each in (self, other))
        return mine.keys() == its.keys() and all(torch.equal(mine[key], its[key]) for key in mine)


def save_checkpoint(
    folder: Path,
    tag: str,
    model: nn.Module,
    manifest: dict[str, Any],
    optimizer: torch.optim.Optimizer | None = None,
) -> None:
    """Writes ``tag`` so that a kill at any moment leaves the previous or the new one intact.

    The file of tensors is named by its content and written first; the manifest, which names it, is
    then replaced atomically; files that no manifest names are removed last. The previous "last", if
    intact, is kept beside the new one.

    Args:
        folder: The run's folder; created if needed.
        tag: ``"last"``, ``"best"`` or ``"epoch"`` and a number.
        model: Its state_dict is saved.
        manifest: JSON values.
        optimizer: Its state is saved, with the global random states, so that the run can continue.

    Raises:
        DiskError: When the disk is full or read-only; earlier checkpoints are left intact.
        UsageError: When this process reserved the folder and lost it; nothing is written.
    """
    data = save(state_tensors(model, optimizer))
    digest = hashlib.sha256(data).hexdigest()
    file = f"{tag}-{digest[:12]}.safetensors"
    content = {"format": _FORMAT, "file": file, "sha256": digest, "bytes": len(data)} | manifest
    path, *former = _manifests(folder, tag)
    check_held(folder)
    with disk_errors(folder, 0):
        for half_written in folder.glob(f".{tag}-*.tmp"):
            half_written.unlink()
    write_atomically(folder / file, data)
    if former and _is_intact(path):
        write_atomically(former[0], path.read_bytes())
    write_atomically(path, manifest_bytes(content))
    named = {file, *(_named_file(each) for each in former)}
    with disk_errors(folder, 0):
        for old in folder.glob(f"{tag}-*.safetensors"):
            if old.name not in named:
                old.unlink()


def manifest_bytes(content: dict[str, Any]) -> bytes:
    """Returns a manifest as written to disk, including the hash of its content."""
    digest = hashlib.sha256(json.dumps(content).encode()).hexdigest()
    return json.dumps(content | {"manifest_sha256": digest}, indent=1).encode()


def load_checkpoint(folder: Path, tag: str) -> Checkpoint:
    """Like ``find_checkpoint``, but raises a UsageError when there is none."""
    checkpoint = find_checkpoint(folder, tag)
    if checkpoint is None:
        raise UsageError(f"no checkpoint '{tag}' in {folder}")
    return checkpoint


def read_history(folder: Path) -> list[dict[str, Any]] | None:
    """Returns the history in the newest intact manifest of "last", or None without one."""
    for path in _manifests(folder, "last"):
        try:
            history: list[dict[str, Any]] = _read_manifest(path)["history"]
        except (CheckpointError, KeyError):
            continue
        return history
    return None


def check_fits(checkpoint: Checkpoint, model: nn.Module) -> None:
    """Raises a CheckpointError unless the weights fit ``model``, possibly on the meta device."""
    try:
        check_weights(_with_prefix(checkpoint.tensors, _MODEL), model, "the checkpoint")
    except RefusedFileError as error:
        raise CheckpointError(str(error)) from error


def check_built(checkpoint: Checkpoint, build: Callable[[], nn.Module]) -> None:
    """Raises a CheckpointError unless the weights fit what ``build`` returns; allocates nothing."""
    try:
        with torch.device("meta"):
            model = build()
    except UserError:
        raise
    except ValueError as error:
        raise CheckpointError(f"the checkpoint's network is unknown here ({error})") from error
    check_fits(checkpoint, model)


def restore(
    checkpoint: Checkpoint, model: nn.Module, optimizer: torch.optim.Optimizer | None = None
) -> None:
    """Copies a checkpoint into ``model`` and, if given, into ``optimizer``.

    With an optimizer the run continues, so the global random states are set, too.

    Raises:
        CheckpointError: When the weights do not fit the model, which is then unchanged, or the
            training state cannot be restored.
    """
    check_fits(checkpoint, model)
    model.load_state_dict(_with_prefix(checkpoint.tensors, _MODEL))
    if optimizer is None:
        return
    try:
        _restore_training(checkpoint, model, optimizer)
    # From torch, numpy and random, on a state with the right hash that they did not write.
    except (RuntimeError, ValueError, TypeError, LookupError, ArithmeticError) as error:
        if is_out_of_memory(error):
            raise
        raise CheckpointError(
            f"the checkpoint holds no state from which training could continue ({error}); train "
            "again"
        ) from error


def _restore_training(
    checkpoint: Checkpoint, model: nn.Module, optimizer: torch.optim.Optimizer
) -> None:
    """Copies the optimizer's state and sets the global random states."""
    momentum = _with_prefix(checkpoint.tensors, _MOMENTUM)
    others = _with_prefix(checkpoint.tensors, _OPTIMIZER)
    for name, parameter in model.named_parameters():
        kept = {"momentum_buffer": momentum[name]} if name in momentum else {}
        for key, value in others.items():
            what, _, of = key.partition(".")
            if of == name:
                kept[what] = value
        for what, value in kept.items():  # a step count is a scalar and stays on the CPU
            like = torch.empty_like(parameter if value.dim() else value)
            optimizer.state[parameter][what] = like.copy_(value)
    set_random_states(_with_prefix(checkpoint.tensors, _RANDOM), _device(model))


def _manifests(folder: Path, tag: str) -> list[Path]:
    """Returns the paths of a tag's manifests, newest first: two of "last", one of other tags."""
    check_name("a checkpoint", tag)
    paths = [folder / f"{tag}.json"]
    return [*paths, folder / f"{tag}-previous.json"] if tag == "last" else paths


def find_checkpoint(folder: Path, tag: str) -> Checkpoint | None:
    """Returns the checkpoint ``tag`` of a run after checking its size and hash; None without one.

    If "last" is damaged, warns and uses the previous one.

    Raises:
        CheckpointError: When none is intact.
    """
    paths = [path for path in _manifests(folder, tag) if path.exists()]
    damages = []
    for path in paths:
        try:
            manifest, tensors = _read_verified(path)
        except CheckpointError as error:
            damages.append(str(error))
            continue
        if damages:
            epoch = manifest.get("epoch")
            _warn_once(f"{damages[0]}; the one before it, of epoch {epoch}, is used instead")
        try:
            return Checkpoint(load_file(tensors), manifest, manifest["sha256"])
        except (SafetensorError, OSError) as error:  # right hash, but not written by this code
            raise CheckpointError(
                f"{tensors} cannot be read as safetensors ({error}); train again"
            ) from error
    if not paths:
        return None
    raise CheckpointError(
        f"{'; '.join(damages)}; copy an intact one there"
        + (", evaluate --checkpoint last" if tag != "last" else "")
        + f", or remove the run in {folder} and train again"
    )


def _read_verified(path: Path) -> tuple[dict[str, Any], Path]:
    """Checks a manifest and the file of tensors that it names; returns both.

    Raises:
        CheckpointError: When either was changed after it was written.
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
    """Reads a manifest and checks all of its content."""
    try:
        data = path.read_bytes()
        manifest: dict[str, Any] = parse_json(data)
        check_structure(manifest, _STRUCTURE)
        complete = True
    except (OSError, ValueError, AttributeError):
        complete = False
    if not complete:
        raise CheckpointError(f"{path} is not a checkpoint manifest")
    digest = manifest.pop("manifest_sha256", None)
    if manifest["format"] == 1 and digest is None:
        return manifest
    if manifest_bytes(manifest) != data:
        raise CheckpointError(f"{path} is damaged: its content does not match its manifest_sha256")
    if manifest["format"] != _FORMAT:
        raise CheckpointError(
            f"{path} has format {manifest['format']}, but this version reads 1 to {_FORMAT}"
        )
    return manifest


def _is_intact(path: Path) -> bool:
    try:
        _read_verified(path)
    except CheckpointError:
        return False
    return True


def _named_file(path: Path) -> str | None:
    """Returns the file of tensors that a manifest names, or None without a valid manifest."""
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
    """Returns the tensors that a checkpoint keeps, by name, on the CPU; see ``restore``."""
    tensors = {_MODEL + name: value for name, value in model.state_dict().items()}
    if optimizer is not None:
        tensors |= _optimizer_tensors(model, optimizer)
        states = random_states(_device(model))
        tensors |= {_RANDOM + name: value for name, value in states.items()}
    return without_shared_memory({name: value.detach().cpu() for name, value in tensors.items()})


def _device(model: nn.Module) -> torch.device:
    return next(model.parameters()).device


def _optimizer_tensors(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Returns the optimizer's tensors by kind and parameter."""
    return {
        (_MOMENTUM if what == "momentum_buffer" else f"{_OPTIMIZER}{what}.") + name: value
        for name, parameter in model.named_parameters()
        for what, value in optimizer.state.get(parameter, {}).items()
        if isinstance(value, Tensor)
    }


def _with_prefix(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Returns the tensors whose names begin with a prefix, without it."""
    return {
        name.removeprefix(prefix): value
        for name, value in tensors.items()
        if name.startswith(prefix)
    }

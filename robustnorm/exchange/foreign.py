"""Reading weights from untrusted files.

A file is inspected before anything in it is loaded, nothing that it names is imported, and reading
it takes no more memory than its size. ``robustnorm.models.weights.check_weights`` then checks
whether the weights fit a network.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from robustnorm.system.errors import RefusedFileError
from robustnorm.system.registry import some
from robustnorm.system.torch_files import LEGACY, check_storage, read_torch
from robustnorm.system.untrusted import parse_json

# Limit of a safetensors header; that of a network with ten thousand tensors has one megabyte.
_MOST_HEADER_BYTES = 10_000_000
_ZIP = b"PK\x03\x04"
# Keys under which training code stores the weights besides the optimizer and other state, and the
# running averages of the weights, which are read only on request.
_WITHIN = ("state_dict", "model", "model_state_dict", "net", "network", "weights")
_AVERAGES = ("ema_state_dict", "state_dict_ema", "model_ema", "ema", "ema_model", "swa_state_dict")


class FoundWeights(NamedTuple):
    """Tensors by name, and where they are in their file.

    Attributes:
        state: The tensors, on the CPU.
        part: Key of the file's dictionary, "" for the dictionary itself.
        others: Keys of further weights in the file, such as running averages.
    """

    state: dict[str, Tensor]
    part: str
    others: tuple[str, ...]


def read_weights(path: Path) -> dict[str, Tensor]:
    """Returns the tensors of a file as ``find_weights`` does."""
    return find_weights(path).state


def find_weights(path: Path, part: str | None = None) -> FoundWeights:
    """Reads the tensors of a ``.safetensors`` file or of one that ``torch.save`` wrote.

    The content, not the name, determines the format. Prefer safetensors, which holds only tensors.

    Args:
        path: The file. torch must have saved a state_dict, or a dictionary with one under
            "state_dict", "model", "net" or another usual key; other entries are ignored.
        part: Key of the weights, if the dictionary has several sets, such as "ema_state_dict"; by
            default the trained weights, not their running average.

    Raises:
        RefusedFileError: On any other file.
    """
    try:
        with path.open("rb") as file:
            magic = file.read(len(_ZIP))
            begin = magic + file.read(1000)
        if begin.lstrip()[:1] == b"<":
            raise RefusedFileError(
                f"{path} is a web page, not weights: the download returned an error, or a page "
                "that links to the file; download the file itself"
            )
        if magic == _ZIP or begin.startswith(LEGACY):
            return _read_torch(path, part)
        if part:
            raise RefusedFileError(f"{path} has only one set of weights, none named '{part}'")
        return FoundWeights(_read_safetensors(path), "", ())
    except OSError as error:
        raise RefusedFileError(f"{path} cannot be read ({error.strerror or error})") from error


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        _check_header(path)
        return load_file(path)
    except (ValueError, SafetensorError) as error:
        raise RefusedFileError(
            f"{path} is neither a valid safetensors file ({error}) nor a zip archive of "
            "torch.save; pickles and other files are never read: save its state_dict again"
        ) from error


def _check_header(path: Path) -> None:
    """Raises a ValueError on a duplicate name, which safetensors accepts."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if length > _MOST_HEADER_BYTES:  # parsing it would take long
            raise ValueError(f"its header has {length} bytes, more than {_MOST_HEADER_BYTES}")
        parse_json(file.read(length))


def _read_torch(path: Path, part: str | None) -> FoundWeights:
    """Reads a file that ``torch.save`` wrote, allowing tensors and plain values only."""
    try:
        return _tensors(read_torch(path), part)
    except RefusedFileError:
        raise
    # torch may raise anything on a malformed file.
    except Exception as error:
        reason = str(error).partition("\n")[0]
        if "_rebuild_meta_tensor" in reason:
            raise RefusedFileError(
                f"{path} holds tensors on the meta device, which have no values: load the "
                "weights, then save the state_dict again"
            ) from error
        raise RefusedFileError(
            f"{path} holds more or other than a state_dict saved by torch ({reason}); if you trust "
            "the file and have its code, save the state_dict alone: found = "
            f"torch.load('{path.name}', weights_only=False); torch.save(found.state_dict() if "
            "hasattr(found, 'state_dict') else found['state_dict'], 'weights.pt')"
        ) from error


def _tensors(content: object, part: str | None) -> FoundWeights:
    """Returns the tensors of a state_dict, or of a state_dict inside a dictionary."""
    if isinstance(content, Mapping):
        found = {key: _by_name(content[key]) for key in (*_WITHIN, *_AVERAGES) if key in content}
        found = {key: state for key, state in found.items() if state} | {"": _by_name(content)}
        keys = [key for key in found if found[key]]
        if part is not None and part not in keys:
            raise ValueError(f"it has no tensors under '{part}', but under {some(keys)}")
        chosen = part if part is not None else next(iter(keys), "")
        check_storage(found[chosen])
        if found[chosen]:
            others = tuple(key for key in keys if key not in (chosen, ""))
            return FoundWeights(found[chosen], chosen, others)
    raise ValueError("it has no named tensors")


def _by_name(content: object) -> dict[str, Tensor]:
    """Returns the tensors of a mapping by name, or else those one level deeper."""
    if not isinstance(content, Mapping):
        return {}
    state = {
        name: value
        for name, value in content.items()
        if isinstance(name, str) and isinstance(value, Tensor)
    }
    within = (content[key] for key in _WITHIN if isinstance(content.get(key), Mapping))
    return state or next((inner for each in within if (inner := _by_name(each))), {})

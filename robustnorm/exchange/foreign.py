"""Reading weights from untrusted files.

A file is inspected before anything in it is loaded, nothing that it names is imported, and reading
it takes no more memory than its size. ``robustnorm.models.weights.check_weights`` then checks
whether the weights fit a network.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from robustnorm.system.errors import RefusedFileError
from robustnorm.system.torch_files import read_torch
from robustnorm.system.untrusted import parse_json

# Limit of a safetensors header; that of a network with ten thousand tensors has one megabyte.
_MOST_HEADER_BYTES = 10_000_000
_ZIP = b"PK\x03\x04"
# Keys under which training code stores the weights beside the optimizer and other state.
_WITHIN = ("state_dict", "model", "model_state_dict", "net")


def read_weights(path: Path) -> dict[str, Tensor]:
    """Returns the tensors of a ``.safetensors`` file or of one that ``torch.save`` wrote.

    The content, not the name, determines the kind. Prefer safetensors, which holds only tensors.

    Args:
        path: The file. torch must have saved a state_dict, or a dictionary with one under
            "state_dict", "model", "model_state_dict" or "net"; other entries are ignored.

    Returns:
        Tensors by name, on the CPU.

    Raises:
        RefusedFileError: On any other file; its message says what is required.
    """
    try:
        with path.open("rb") as file:
            magic = file.read(len(_ZIP))
        state = _read_zip(path) if magic == _ZIP else _read_safetensors(path)
    except OSError as error:
        raise RefusedFileError(f"{path} cannot be read ({error.strerror or error})") from error
    return state


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


def _read_zip(path: Path) -> dict[str, Tensor]:
    """Reads a file that ``torch.save`` wrote, allowing tensors and plain values only."""
    try:
        return _tensors(read_torch(path))
    except RefusedFileError:
        raise
    # torch may raise anything on a malformed file.
    except Exception as error:
        reason = str(error).partition("\n")[0]
        raise RefusedFileError(
            f"{path} holds more or other than a state_dict that torch saved ({reason}); save the "
            "state_dict alone, best as safetensors"
        ) from error


def _tensors(content: object) -> dict[str, Tensor]:
    """Returns the tensors of a state_dict, or of the state_dict inside a dictionary."""
    if isinstance(content, Mapping):
        within = [content[key] for key in _WITHIN if isinstance(content.get(key), Mapping)]
        state = {
            name: value
            for name, value in (*within, content)[0].items()
            if isinstance(name, str) and isinstance(value, Tensor)
        }
        large = [name for name, value in state.items() if _is_expanded(value)]
        if large:
            raise ValueError(f"tensor {large[0]} has more values than are stored")
        if state:
            return state
    raise ValueError("no tensors by name are in it")


def _is_expanded(tensor: Tensor) -> bool:
    """Returns whether elements share storage: a copy could then take any amount of memory."""
    return tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes()

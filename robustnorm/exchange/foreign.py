"""Reading weights from untrusted files.

A file is inspected before anything in it is loaded, nothing that it names is imported, and reading
it takes no more memory than its size. ``robustnorm.models.weights.check_weights`` then checks
whether the weights fit a network.
"""

from __future__ import annotations

import os
import pickletools
import zipfile
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from robustnorm.system.errors import RefusedFileError
from robustnorm.system.untrusted import is_inside, parse_json

# Limit of a safetensors header; that of a network with ten thousand tensors has one megabyte.
_MOST_HEADER_BYTES = 10_000_000
_MOST_MEMBERS = 100_000
_ZIP = b"PK\x03\x04"
# Keys under which training code stores the weights beside the optimizer and other state.
_WITHIN = ("state_dict", "model", "model_state_dict", "net")
_OFF = ("", "0", "n", "no", "false")
# Globals in a pickle of plain tensors. torch's list also has bytearray, which takes any size.
_GLOBALS = frozenset(
    {
        "collections OrderedDict",
        "torch Size",
        "torch._utils _rebuild_parameter",
        "torch._utils _rebuild_tensor_v2",
        "torch BFloat16Storage",
        "torch BoolStorage",
        "torch ByteStorage",
        "torch CharStorage",
        "torch DoubleStorage",
        "torch FloatStorage",
        "torch HalfStorage",
        "torch IntStorage",
        "torch LongStorage",
        "torch ShortStorage",
    }
)
# Opcodes that reach objects: GLOBAL is checked against the list above, the others are refused.
_OTHER_GLOBALS = frozenset({"STACK_GLOBAL", "INST", "OBJ", "EXT1", "EXT2", "EXT4", "PERSID"})


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
    forced = os.environ.get("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "")
    if forced.lower() not in _OFF:
        raise RefusedFileError(
            f"{path} is not read while TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD is '{forced}': unset it, "
            "or convert the file to safetensors"
        )
    try:
        _check_zip(path)
        content = torch.load(path, map_location="cpu", weights_only=True)
        return _tensors(content)
    # torch may raise anything on a malformed file.
    except Exception as error:
        reason = str(error).partition("\n")[0]
        raise RefusedFileError(
            f"{path} holds more or other than a state_dict that torch saved ({reason}); save the "
            "state_dict alone, best as safetensors"
        ) from error


def _check_zip(path: Path) -> None:
    """Raises a ValueError unless an archive holds only uncompressed tensors and one pickle."""
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
        names = [member.filename for member in members]
        if len(members) > _MOST_MEMBERS:
            raise ValueError(f"it has {len(members)} members, more than {_MOST_MEMBERS}")
        twice = [name for name, count in Counter(names).items() if count > 1]
        outside = [name for name in names if not is_inside(name)]
        packed = [m.filename for m in members if m.compress_type != zipfile.ZIP_STORED]
        if twice or outside or packed:
            raise ValueError(
                f"member {twice[0]} appears twice"
                if twice
                else f"member {outside[0]} leads outside"
                if outside
                else f"member {packed[0]} is compressed"
            )
        # Uncompressed members exceed the archive's size only if they share bytes.
        if sum(member.file_size for member in members) > path.stat().st_size:
            raise ValueError("its members are larger than the file")
        pickles = [name for name in names if name.endswith(".pkl")]
        if [name.rpartition("/")[2] for name in pickles] != ["data.pkl"]:
            raise ValueError("one pickle, data.pkl, is required")
        for opcode, argument, _ in pickletools.genops(archive.read(pickles[0])):
            if opcode.name in _OTHER_GLOBALS or (
                opcode.name == "GLOBAL" and argument not in _GLOBALS
            ):
                raise ValueError(f"its pickle names {argument or opcode.name}")


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

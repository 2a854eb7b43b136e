"""Files of ``torch.save`` from untrusted sources: tensors and plain values, nothing else."""

from __future__ import annotations

import os
import pickletools
import zipfile
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any, Self

import torch

from robustnorm.system.errors import RefusedFileError
from robustnorm.system.untrusted import is_inside

_MOST_MEMBERS = 100_000
# A tensor takes forty opcodes of a pickle, and each can create an object of 200 bytes.
_MOST_OPCODES = 500_000
_OFF = ("", "0", "n", "no", "false")
# Globals in a pickle of plain tensors. torch's list also has bytearray, which takes any size.
GLOBALS = frozenset(
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
# What checkpoints hold besides weights. It is never created: an empty object takes its place.
IGNORED = frozenset(
    {
        "_codecs encode",
        "argparse Namespace",
        "collections defaultdict",
        "numpy dtype",
        "numpy ndarray",
        "numpy._core.multiarray _reconstruct",
        "numpy._core.multiarray scalar",
        "numpy.core.multiarray _reconstruct",
        "numpy.core.multiarray scalar",
    }
)
# First bytes of torch's files before version 1.6: a pickled number, then its protocol.
LEGACY = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
# The pickles of such a file: number, protocol, machine, content, names of the storages.
_LEGACY_PICKLES = 5
# Opcodes that reach objects: GLOBAL is checked against the list above, the others are refused.
_OTHER_GLOBALS = frozenset({"STACK_GLOBAL", "INST", "OBJ", "EXT1", "EXT2", "EXT4", "PERSID"})


def read_torch(path: Path) -> Any:
    """Returns what ``torch.save`` wrote, tensors and plain values, on the CPU.

    The file's content is checked before any of it is loaded; nothing that it names is imported.

    Raises:
        RefusedFileError: While an environment variable makes torch load every kind of object.
        Exception: Almost any, on a damaged file or one of another kind.
    """
    forced = os.environ.get("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "")
    if forced.lower() not in _OFF:
        raise RefusedFileError(
            f"{path} is not read while TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD is '{forced}': unset it, "
            "or convert the file to safetensors"
        )
    with path.open("rb") as file:
        if file.read(len(LEGACY)) == LEGACY:
            file.seek(0)
            for _ in range(_LEGACY_PICKLES):
                _check_pickle(file)
        else:
            _check_archive(path)
    stand_ins = [(_Placeholder, name.replace(" ", ".")) for name in sorted(IGNORED)]
    with torch.serialization.safe_globals(stand_ins):  # type: ignore[arg-type]
        return torch.load(path, map_location="cpu", weights_only=True)


def check_storage(tensors: Mapping[str, torch.Tensor]) -> None:
    """Raises a ValueError on values that share storage: a copy could take any amount of memory."""
    for name, value in tensors.items():
        if value.numel() * value.element_size() > value.untyped_storage().nbytes():
            raise ValueError(f"tensor {name} has more values than are stored")


class _Placeholder:
    """Takes the place of an object in a file that is not read."""

    def __new__(cls, *_arguments: object) -> Self:
        return object.__new__(cls)

    def __init__(self, *_arguments: object) -> None: ...

    def __setstate__(self, _state: object) -> None: ...

    def __setitem__(self, _key: object, _value: object) -> None: ...


def _check_pickle(pickle: IO[bytes] | bytes) -> None:
    """Raises a ValueError on a pickle that names anything but tensors and ignored objects."""
    for number, (opcode, argument, _) in enumerate(pickletools.genops(pickle)):
        if number == _MOST_OPCODES:
            raise ValueError(f"its pickle has more than {_MOST_OPCODES:,} opcodes")
        if opcode.name in _OTHER_GLOBALS or (
            opcode.name == "GLOBAL" and argument not in GLOBALS | IGNORED
        ):
            raise ValueError(f"its pickle names {argument or opcode.name}")


def _check_archive(path: Path) -> None:
    """Raises a ValueError unless the archive holds one pickle and uncompressed tensors only."""
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
        names = [member.filename for member in members]
        if len(members) > _MOST_MEMBERS:
            raise ValueError(f"it has {len(members)} members, more than {_MOST_MEMBERS}")
        twice = [name for name, count in Counter(names).items() if count > 1]
        outside = [name for name in names if not is_inside(name)]
        compressed = [m.filename for m in members if m.compress_type != zipfile.ZIP_STORED]
        if twice or outside or compressed:
            raise ValueError(
                f"member {twice[0]} appears twice"
                if twice
                else f"member {outside[0]} leads outside"
                if outside
                else f"member {compressed[0]} is compressed"
            )
        # Uncompressed members exceed the archive's size only if they share bytes.
        if sum(member.file_size for member in members) > path.stat().st_size:
            raise ValueError("its members are larger than the file")
        pickles = [name for name in names if name.endswith(".pkl")]
        if [name.rpartition("/")[2] for name in pickles] != ["data.pkl"]:
            raise ValueError("exactly one pickle, data.pkl, is required")
        _check_pickle(archive.read(pickles[0]))

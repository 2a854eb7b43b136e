"""Files of ``torch.save`` from untrusted sources: tensors and plain values, nothing else."""

from __future__ import annotations

import os
import pickletools
import zipfile
from collections import Counter
from pathlib import Path
from typing import Any

import torch

from robustnorm.system.errors import RefusedFileError
from robustnorm.system.untrusted import is_inside

_MOST_MEMBERS = 100_000
# Steps of a pickle: a tensor takes forty; each can make an object that takes 200 bytes of memory.
_MOST_STEPS = 500_000
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
# Opcodes that reach objects: GLOBAL is checked against the list above, the others are refused.
_OTHER_GLOBALS = frozenset({"STACK_GLOBAL", "INST", "OBJ", "EXT1", "EXT2", "EXT4", "PERSID"})


def read_torch(path: Path) -> Any:
    """Returns what ``torch.save`` wrote, tensors and plain values, on the CPU.

    What the file holds is checked before any of it is loaded; nothing that it names is imported.

    Raises:
        RefusedFileError: While torch is told to read whatever a file holds.
        Exception: Almost anything, on a file that is not what it should be.
    """
    forced = os.environ.get("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "")
    if forced.lower() not in _OFF:
        raise RefusedFileError(
            f"{path} is not read while TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD is '{forced}': unset it, "
            "or convert the file to safetensors"
        )
    _check(path)
    return torch.load(path, map_location="cpu", weights_only=True)


def _check(path: Path) -> None:
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
        steps = pickletools.genops(archive.read(pickles[0]))
        for number, (opcode, argument, _) in enumerate(steps):
            if number == _MOST_STEPS:
                raise ValueError(f"its pickle has more than {_MOST_STEPS:,} steps")
            if opcode.name in _OTHER_GLOBALS or (
                opcode.name == "GLOBAL" and argument not in GLOBALS
            ):
                raise ValueError(f"its pickle names {argument or opcode.name}")

"""Content and style pictures from folders, from a data set, or embedded in scikit-image."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from robustnorm.data.cache import files_identity, shorten
from robustnorm.data.decoding import decode_picture, shape_of
from robustnorm.data.errors import DataError, RefusedDataError
from robustnorm.system.files import write_atomically
from robustnorm.system.sealed import seal, unseal
from robustnorm.system.untrusted import parse_json

log = logging.getLogger("robustnorm")

_SUFFIXES = {".bmp", ".jpg", ".jpeg", ".png", ".ppm", ".tif", ".tiff", ".webp"}
# Smallest side that an encoder of four stages accepts.
LEAST_SIDE = 16

# Functions of skimage.data, one picture each. Held-out styles are in no training set.
PHOTOGRAPHS = ("astronaut", "camera", "chelsea", "coffee", "rocket", "stereo_motorcycle")
STYLES = (
    "brick",
    "cell",
    "coins",
    "colorwheel",
    "grass",
    "hubble_deep_field",
    "immunohistochemistry",
    "moon",
    "page",
)
HELD_OUT_STYLES = ("gravel", "retina", "text", "microaneurysms", "clock")
# Sides to which embedded textures are scaled, relative to the side of a crop.
_SCALES = (1.5, 2.5, 4.0)


class Pictures(Protocol):
    """Pictures by index, uint8 (3, H, W)."""

    @property
    def name(self) -> str: ...

    @property
    def sha256(self) -> str: ...

    def __len__(self) -> int: ...

    def __getitem__(self, number: int) -> Tensor: ...


@dataclass(frozen=True)
class InMemory:
    """Pictures in memory.

    Args:
        name: Name in reports.
        pictures: uint8 (3, H, W), of any sizes.
        sha256: Hash of the content.
    """

    name: str
    pictures: Sequence[Tensor]
    sha256: str

    def __len__(self) -> int:
        return len(self.pictures)

    def __getitem__(self, number: int) -> Tensor:
        return self.pictures[number]


class Folder:
    """Pictures of a folder and its subfolders, decoded on demand.

    Args:
        name: Name in reports.
        paths: Paths of the pictures.
        side: Height and width to which each picture is scaled.
        sha256: Hash of the content.
    """

    def __init__(self, name: str, paths: Sequence[Path], side: int, sha256: str) -> None:
        self.name, self.paths, self.sha256 = name, list(paths), sha256
        self._side = side
        self._read = lru_cache(maxsize=256)(self._decode)

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, number: int) -> Tensor:
        return self._read(number)

    def _decode(self, number: int) -> Tensor:
        return to_tensor(
            read_picture(self.paths[number], draft=self._side).resize(
                (self._side, self._side), Image.Resampling.BILINEAR
            )
        )

    def __getstate__(self) -> dict[str, object]:  # the cache is not sent to worker processes
        return {"name": self.name, "paths": self.paths, "side": self._side, "sha256": self.sha256}

    def __setstate__(self, state: dict[str, object]) -> None:
        # From __getstate__, whose keys are the arguments.
        self.__init__(**state)  # type: ignore[misc]


def read_picture(path: Path, *, draft: int | None = None) -> Image.Image:
    """Returns a picture in RGB as a viewer would show it; grey ones get three equal channels.

    Args:
        path: The file.
        draft: Side in pixels that suffices, for formats that can be decoded at lower resolution.

    Raises:
        RefusedDataError: When the file is not a complete picture, or is too large.
        DataError: When the picture is too small or of an unsupported mode.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise RefusedDataError(f"{path} cannot be read ({error.strerror or error})") from error
    shape = shape_of(data, str(path))
    if min(shape.width, shape.height) < LEAST_SIDE:
        raise DataError(
            f"{path} has {shape.width}x{shape.height} pixels; a picture needs {LEAST_SIDE} on each "
            "side: use a larger one or remove it"
        )
    return decode_picture(data, str(path), side=draft)


def to_tensor(image: Image.Image) -> Tensor:
    """Returns an RGB picture as uint8 (3, H, W)."""
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous()


def to_image(picture: Tensor) -> Image.Image:
    """Converts a picture (3, H, W), uint8 or in [0, 1], to a Pillow image."""
    if picture.is_floating_point():
        picture = (255 * picture.clamp(0, 1)).round().to(torch.uint8)
    return Image.fromarray(picture.permute(1, 2, 0).cpu().numpy())


def read_folder(path: Path, side: int, *, cache: Path, threads: int = 2) -> Folder:
    """Returns the pictures of a folder and its subfolders, sorted by path.

    Every picture is decoded once, so that a damaged one is found before hours of work. The result
    is cached, and a folder whose files have not changed is not checked again.

    Args:
        path: The folder.
        side: Height and width to which each picture is scaled.
        cache: Folder of the cache.
        threads: Number of decoding threads.

    Raises:
        DataError: When there is no picture, or a picture is unsuitable; see ``read_picture``.
    """
    if not path.is_dir():
        raise DataError(f"{path} is not a folder; choose a folder of pictures")
    paths = sorted(
        p for p in path.rglob("*") if p.suffix.lower() in _SUFFIXES and not p.name.startswith(".")
    )
    if not paths:
        raise DataError(
            f"{path} has no pictures; put some into it ({', '.join(sorted(_SUFFIXES))})"
        )
    names = [p.relative_to(path).as_posix() for p in paths]
    title = path.resolve().name
    found = cache / f"pictures-{shorten(title)}-{files_identity(path, names)}.json"
    try:
        kept, _ = unseal(parse_json(found.read_bytes()), required=True)
        sha256 = str(kept["sha256"])
    except (OSError, ValueError, KeyError):
        content, grey = hashlib.sha256(), 0
        with ThreadPoolExecutor(max(1, threads)) as pool:
            checked = pool.map(lambda p: _check(p, side), paths)
            bar = tqdm(checked, f"checking {title}", len(paths), disable=None)
            for name, (digest, is_grey) in zip(names, bar, strict=True):
                content.update(f"{name}\0{digest}\0".encode())
                grey += is_grey
        if grey:
            log.info(
                "%s: %d of %d pictures are grey and get three equal channels",
                path,
                grey,
                len(paths),
            )
        sha256 = content.hexdigest()
        write_atomically(found, json.dumps(seal({"sha256": sha256})).encode(), shared=True)
    return Folder(title, paths, side, sha256)


def _check(path: Path, side: int) -> tuple[str, bool]:
    """Decodes a picture; returns the hash of its file and whether it is grey."""
    red, green, blue = read_picture(path, draft=side).split()
    is_grey = red.tobytes() == green.tobytes() == blue.tobytes()
    return hashlib.sha256(path.read_bytes()).hexdigest(), is_grey


def part_of(folder: Folder, *, held_out: bool) -> Folder:
    """Returns every tenth picture of a folder, or all others.

    Raises:
        DataError: When the folder has fewer than two pictures.
    """
    if len(folder) < 2:
        raise DataError(
            f"{folder.name} has {len(folder)} picture(s); it needs two, one for training and one "
            "held out, unless a validation folder is given"
        )
    paths = [p for i, p in enumerate(folder.paths) if (i % min(10, len(folder)) == 0) == held_out]
    suffix = "held out" if held_out else "training"
    return Folder(f"{folder.name} ({suffix})", paths, folder._side, folder.sha256)


def embedded(names: Sequence[str]) -> list[Image.Image]:
    """Returns pictures that come with scikit-image, in RGB.

    Args:
        names: Names of functions of ``skimage.data``.

    Raises:
        ImportError: When scikit-image is not installed.
    """
    try:
        from skimage import data
    except ModuleNotFoundError as error:
        raise ImportError(
            f'the embedded pictures need scikit-image ({error}): pip install "robustnorm[style]", '
            "or choose folders with --content and --style"
        ) from error
    arrays = {name: getattr(data, name)() for name in names}
    # Of a stereo pair, only the left picture.
    return [
        Image.fromarray(a[0] if isinstance(a, tuple) else a).convert("RGB") for a in arrays.values()
    ]


def textures(names: Sequence[str], crop: int) -> InMemory:
    """Returns embedded pictures at three scales, to show coarse and fine texture.

    Args:
        names: Names of functions of ``skimage.data``.
        crop: Side of the crops that will be taken from them.
    """
    made = [
        to_tensor(scaled(image, round(scale * crop)))
        for image in embedded(names)
        for scale in _SCALES
    ]
    return InMemory(
        f"{len(names)} pictures of scikit-image x {len(_SCALES)} scales", made, content_hash(made)
    )


def scaled(image: Image.Image, short: int) -> Image.Image:
    """Returns a picture whose shorter side has the given length."""
    factor = short / min(image.size)
    size = tuple(max(short, round(factor * side)) for side in image.size)
    return image.resize((size[0], size[1]), Image.Resampling.LANCZOS)


def content_hash(pictures: Sequence[Tensor]) -> str:
    """Returns a hash of the pictures' shapes and values."""
    content = hashlib.sha256()
    for picture in pictures:
        content.update(f"{tuple(picture.shape)}".encode() + picture.numpy().tobytes())
    return content.hexdigest()

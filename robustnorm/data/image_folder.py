"""Images in folders, train/<class>/* and test/<class>/*, or an archive of them."""

from __future__ import annotations

import hashlib
import io
import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor
from tqdm import tqdm

from robustnorm.data.dataset import Augmentation, Dataset, Split
from robustnorm.data.errors import DataError, RefusedDataError
from robustnorm.system.archives import unpack_tar
from robustnorm.system.errors import RefusedFileError
from robustnorm.system.files import write_atomically
from robustnorm.system.untrusted import MOST_PIXELS

# Formats of plain pixels: others that Pillow opens call programs, such as Ghostscript.
_FORMATS = ("BMP", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
_CHANNELS = {"L": 1, "RGB": 3}

# Known copies by content, so that reports name them as what they are.
_KNOWN_NAMES = {
    "9331aba37042b53ef175ea92210135363b064914b4bd4729651584a1b708a676": "CIFAR-10 (JPEG q75)",
}

# A folder's images: (path relative to the root, label), in the order of their ids.
_Listing = list[tuple[str, int]]


def load_image_folder(path: Path, *, cache: Path) -> Dataset:
    """Returns the images of a folder; an archive is unpacked once.

    Classes are the folders' names in alphabetical order; an image's id is its place in the order of
    (class, file name). All images are grey or all are RGB, and of one size. Training images are
    cropped from a padding of an eighth of their height, and mirrored.

    Args:
        path: Of the folder, or of a tar archive of it.
        cache: Folder for the unpacked archive and the decoded images.

    Raises:
        DataError: With the file and the repair; a RefusedDataError where the file is at fault.
    """
    root = _unpack(path, cache) if path.is_file() else path
    classes = _classes(root)
    listing = {part: _list(root, part, classes) for part in ("train", "test")}
    tensors, sha256 = _cached(root, listing, cache)
    splits = {
        part: Split(tensors[part], torch.tensor([label for _, label in listing[part]]))
        for part in listing
    }
    return Dataset(
        name=_KNOWN_NAMES.get(sha256, path.name.split(".")[0]),
        classes=classes,
        train=splits["train"],
        test=splits["test"],
        augmentation=Augmentation(padding=splits["train"].images.shape[2] // 8, flip=True),
        sha256=sha256,
    )


def _classes(root: Path) -> tuple[str, ...]:
    """Returns the classes of both parts, which must be the same."""
    names: dict[str, set[str]] = {}
    for part in ("train", "test"):
        folder = root / part
        if not folder.is_dir():
            raise DataError(
                f"{root} has no folder {part}/: images are read from train/<class>/ and "
                "test/<class>/"
            )
        names[part] = {
            entry.name for entry in folder.iterdir() if entry.is_dir() and _visible(entry)
        }
    for part, other in (("train", "test"), ("test", "train")):
        missing = sorted(names[other] - names[part])
        if missing:
            raise DataError(
                f"{root / part} lacks classes that {other}/ has: {', '.join(missing)}; "
                "both need the same class folders"
            )
    if not names["train"]:
        raise DataError(f"{root / 'train'} has no class folders; put images in train/<class>/")
    return tuple(sorted(names["train"]))


def _list(root: Path, part: str, classes: tuple[str, ...]) -> _Listing:
    listing: _Listing = []
    for label, name in enumerate(classes):
        folder = root / part / name
        files = sorted(entry for entry in folder.iterdir() if entry.is_file() and _visible(entry))
        if not files:
            raise DataError(f"{folder} is empty; put images there or remove the class")
        listing += [(file.relative_to(root).as_posix(), label) for file in files]
    return listing


def _visible(path: Path) -> bool:
    return not path.name.startswith(".")


def _cached(root: Path, listing: dict[str, _Listing], cache: Path) -> tuple[dict[str, Tensor], str]:
    """Returns the decoded images of each part and the content's hash, kept from a former time."""
    files = [name for part in listing.values() for name, _ in part]
    stats = [(root / name).stat() for name in files]
    state = [(n, s.st_size, s.st_mtime_ns) for n, s in zip(files, stats, strict=True)]
    key = hashlib.sha256(json.dumps(state).encode()).hexdigest()[:16]
    kept = cache / f"decoded-{root.name}-{key}.safetensors"
    try:
        tensors = load_file(kept)
        sha256 = bytes(tensors.pop("sha256").tolist()).hex()
    except (OSError, SafetensorError, KeyError):
        pass
    else:
        return tensors, sha256
    content = hashlib.sha256()
    with tqdm(total=len(files), desc=f"decoding {root.name}", unit="img", disable=None) as bar:
        tensors = {part: _decode(root, listing[part], content, bar) for part in listing}
    odd = [part for part in tensors if tensors[part].shape[1:] != tensors["train"].shape[1:]]
    if odd:
        raise DataError(
            f"{root / 'test'} has images of {_size(tensors['test'])}, {root / 'train'} of "
            f"{_size(tensors['train'])}; convert them to one size and mode"
        )
    cache.mkdir(parents=True, exist_ok=True)
    digest = torch.tensor(list(content.digest()), dtype=torch.uint8)
    write_atomically(kept, save(tensors | {"sha256": digest}))
    return tensors, content.hexdigest()


def _decode(root: Path, listing: _Listing, content: hashlib._Hash, bar: tqdm[Any]) -> Tensor:
    """Returns the images (N, C, H, W) of a part; adds names and bytes to the content's hash."""
    images: list[np.ndarray] = []
    for name, _ in listing:
        path = root / name
        data = path.read_bytes()
        content.update(f"{name}\0{len(data)}\0".encode() + data)
        try:
            with Image.open(io.BytesIO(data), formats=_FORMATS) as image:
                if image.width * image.height > MOST_PIXELS:
                    raise RefusedDataError(
                        f"{path} has {image.width}x{image.height} pixels, more than "
                        f"{MOST_PIXELS:,}; make it smaller or remove it"
                    )
                if image.mode not in _CHANNELS:
                    raise DataError(
                        f"{path} is of mode {image.mode}; convert it to RGB or to grey (L)"
                    )
                pixels = np.asarray(image)
        except (OSError, SyntaxError, Image.DecompressionBombError) as error:
            reason = str(error).partition(" <")[0]  # without the buffer's address
            raise RefusedDataError(
                f"{path} is not a readable image ({reason}); replace or remove it"
            ) from error
        if images and pixels.shape != images[0].shape:
            raise DataError(
                f"{path} is {_describe(pixels)}, the images before it are {_describe(images[0])}; "
                "convert them to one size and mode"
            )
        images.append(pixels)
        bar.update()
    stacked = torch.from_numpy(np.stack(images))
    return stacked[:, None] if stacked.dim() == 3 else stacked.permute(0, 3, 1, 2).contiguous()


def _describe(pixels: np.ndarray) -> str:
    height, width = pixels.shape[:2]
    return f"{width}x{height} {'grey' if pixels.ndim == 2 else 'RGB'}"


def _size(images: Tensor) -> str:
    _, channels, height, width = images.shape
    return f"{width}x{height} {'grey' if channels == 1 else 'RGB'}"


def _unpack(archive: Path, cache: Path) -> Path:
    """Returns the folder of an unpacked archive, unpacked before or now, whole or not at all."""
    name = archive.name.split(".")[0]
    status = archive.stat()
    target = cache / f"{name}-{status.st_size:x}-{int(status.st_mtime):x}"
    if not target.exists():
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache) as temporary:
            unpacked = Path(temporary) / "unpacked"
            try:
                unpack_tar(archive, unpacked)
            except RefusedFileError as error:
                raise RefusedDataError(str(error)) from error
            shutil.move(unpacked, target)
    inner = [entry for entry in target.iterdir() if _visible(entry)]
    if len(inner) == 1 and inner[0].is_dir() and inner[0].name not in ("train", "test"):
        return inner[0]
    return target

"""Files that strangers send: archives, images, arrays, tables, weights, caches."""

from __future__ import annotations

import gzip
import io
import json
import pickle
import shutil
import struct
import tarfile
import zipfile
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import torch
from fuzz_harness import Target
from fuzz_made import TEXTS, changed, hurt, odd, texts
from hypothesis import strategies as st
from PIL import Image
from pyarrow import parquet
from safetensors.torch import save

from robustnorm import resnet18
from robustnorm.data import load_dataset
from robustnorm.data.cache import cached_tensors
from robustnorm.data.decoding import decode, shape_of
from robustnorm.exchange.export import Description, export, load_exported
from robustnorm.exchange.foreign import find_weights
from robustnorm.exchange.loaders import LOADERS, load_released

PIXELS = np.random.default_rng(0).integers(0, 256, (8, 8, 3), np.uint8)
FORMATS = {
    "PNG": {}, "BMP": {}, "JPEG": {}, "PPM": {}, "TIFF": {"compression": "tiff_lzw"}, "WEBP": {},
    "GIF": {}, "ICO": {}, "TGA": {},
}  # fmt: skip
MEMBERS = ("train/a/1.png", "train/b/1.png", "test/a/1.png", "test/b/2.png")


def image(kind: str = "PNG", pixels: Any = PIXELS, **options: Any) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind, **FORMATS.get(kind, {}) | options)
    return file.getvalue()


def tar(members: list[tuple[str, bytes, bytes, int]], packed: str) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode=f"w:{packed}") as archive:
        for name, data, kind, mode in members:
            member = tarfile.TarInfo(name)
            member.type, member.mode, member.linkname = kind, mode & 0o7777, "x"
            member.size = len(data) if kind in (tarfile.REGTYPE, b"7") else 0
            archive.addfile(member, io.BytesIO(data))
    return file.getvalue()


def zipped(members: list[tuple[str, bytes]], compression: int) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as archive:
        for name, data in members:
            archive.writestr(name, data)
    return file.getvalue()


PNG = image()
WHOLE = [(name, PNG, tarfile.REGTYPE, 0o644) for name in MEMBERS]
ARCHIVES = [tar(WHOLE, packed) for packed in ("", "gz", "bz2", "xz")]
ARCHIVES += [zipped([(n, d) for n, d, *_ in WHOLE], kind) for kind in (0, 8, 12, 14)]
name = st.one_of(
    st.sampled_from(MEMBERS), texts, st.lists(st.sampled_from(("train", "test", "a", "..", "")))
    .map("/".join),
).filter(lambda text: "\0" not in text)  # fmt: skip
content = st.sampled_from([PNG, b"", b"x", PNG[:40], image("JPEG"), bytes(3000)])


@st.composite
def archives(draw: st.DrawFn) -> bytes:
    if draw(st.integers(0, 2)):
        return draw(hurt(draw(st.sampled_from(ARCHIVES))))
    kinds = st.sampled_from((tarfile.REGTYPE,) * 6 + (b"1", b"2", b"3", b"5", b"6", b"7", b"g"))
    members = [
        (draw(name).encode(errors="replace").decode()[:200], draw(content), draw(kinds), 0o644)
        for _ in range(draw(st.integers(0, 5)))
    ]
    members += WHOLE * draw(st.booleans())
    try:
        if draw(st.booleans()):
            return tar(members, draw(st.sampled_from(("", "gz"))))
        return zipped([(n or "x", d) for n, d, *_ in members], draw(st.sampled_from((0, 8))))
    except (ValueError, UnicodeError, UserWarning):
        return b"PK\x03\x04"


def archive_target(folder: Path) -> Target:
    path, cache = folder / "images.tar", folder / "cache"

    def read(data: bytes) -> None:
        path.write_bytes(data)
        try:
            dataset = load_dataset(str(path), root=cache)
            assert dataset.test.images[:].dtype == torch.uint8
        finally:
            shutil.rmtree(cache, ignore_errors=True)
        assert sorted(each.name for each in folder.iterdir()) == ["images.tar"]

    return Target(archives(), read, 1)


IMAGES = [image(kind) for kind in FORMATS]
IMAGES += [image("PNG", PIXELS[:, :, 0]), image("PNG", np.dstack([PIXELS, PIXELS[:, :, :1]]))]
IMAGES += [image("TIFF", PIXELS, compression=each) for each in ("raw", "packbits", "tiff_deflate")]
IMAGES += [
    image("PNG", PIXELS[:, :, 0].astype(np.uint16) * 257),
    image("JPEG", PIXELS, exif=b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0"),
    image("GIF", save_all=True, append_images=[Image.fromarray(255 - PIXELS)]),
]


def read_image(data: bytes) -> None:
    shape = shape_of(data, "x")
    whole = decode(data, "x", channels=3)
    assert whole.shape == (3, shape.height, shape.width), (shape, whole.shape)
    assert decode(data, "x", channels=1, size=4).shape == (1, 4, 4)


def arrays_target(folder: Path) -> Target:
    """Every other format of data, damaged."""
    x, y = np.zeros((4, 8, 8, 3), np.uint8), np.arange(4) % 2
    files: list[tuple[str, bytes]] = []

    def saved(name: str, write: Any) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        write(folder / name)
        files.append((name, (folder / name).read_bytes()))

    saved("a.npz", lambda path: np.savez(path, x_test=x, y_test=y))
    saved("b.npz", lambda path: np.savez_compressed(path, x_test=x, y_test=y, x_train=x, y_train=y))
    saved("a.pt", lambda path: torch.save({"x_test": torch.tensor(x), "y_test": torch.tensor(y)},
                                          path))  # fmt: skip
    rows = [{"image": {"bytes": PNG, "path": None}, "label": int(label)} for label in y]
    saved("a.parquet", lambda path: parquet.write_table(pyarrow.Table.from_pylist(rows), path))
    (folder / "i.png").parent.mkdir(exist_ok=True)
    (folder / "i.png").write_bytes(PNG)
    files.append(("a.csv", b'path,label,split\ni.png,0,test\ni.png,1,test\n"i.png",1,train\n'))
    idx = struct.pack(">4I", 0x803, 4, 8, 8) + bytes(256)
    labels = struct.pack(">2I", 0x801, 4) + bytes([0, 1, 0, 1])
    for end, pack in (("", bytes), (".gz", gzip.compress)):
        place = folder / f"idx{end}"
        place.mkdir()
        (place / f"t10k-labels-idx1-ubyte{end}").write_bytes(pack(labels))
        files.append((f"idx{end}/t10k-images-idx3-ubyte{end}", pack(idx)))
        files.append((f"idx{end}/t10k-labels-idx1-ubyte{end}", pack(labels)))
        (place / f"t10k-images-idx3-ubyte{end}").write_bytes(pack(idx))
    np.save(folder / "y_test.npy", y)
    saved("x_test.npy", lambda path: np.save(path, x))
    batch = {b"data": np.zeros((4, 3072), np.uint8), b"labels": [0, 1, 2, 3]}
    cifar = folder / "cifar"
    cifar.mkdir()
    for each in ("data_batch_1", "data_batch_2", "data_batch_3", "data_batch_4", "data_batch_5",
                 "test_batch"):  # fmt: skip
        (cifar / each).write_bytes(pickle.dumps(batch, protocol=2))
    files += [("cifar/data_batch_1", pickle.dumps(batch, protocol=p)) for p in (0, 2, 3, 4)]
    whole = dict(files)

    def read(made: tuple[str, bytes]) -> None:
        name, data = made
        path = folder / name
        path.write_bytes(data)
        try:
            data_of = str(path.parent if "/" in name else path)
            dataset = load_dataset(data_of, root=folder / "cache")
            assert len(dataset.test.images) == len(dataset.test.labels)
        finally:
            path.write_bytes(whole[name])
            shutil.rmtree(folder / "cache", ignore_errors=True)

    made = [hurt(data).map(partial(_named, each)) for each, data in files]
    table = st.lists(
        st.tuples(st.sampled_from(("i.png", "../x", "", "0", "test", "train", "x", '"', "é"))
                  | texts, texts, texts), max_size=4,
    ).map(_csv)  # fmt: skip
    return Target(st.one_of(*made, table), read, 2)


def _named(each: str, data: bytes) -> tuple[str, bytes]:
    return each, data


def _csv(rows: list[tuple[str, ...]]) -> tuple[str, bytes]:
    text = "\n".join(["path,label,split", *map(",".join, rows)])
    return "a.csv", text.encode(errors="surrogatepass")


@st.composite
def safetensors(draw: st.DrawFn) -> bytes:
    header = draw(changed(HEADER))
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + bytes(draw(st.sampled_from((0, 8, 16, 64))))


HEADER = {
    "a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]},
    "b": {"dtype": "I64", "shape": [1], "data_offsets": [8, 16]},
    "__metadata__": {"format": "pt"},
}


def weights_target(folder: Path) -> Target:
    folder.mkdir(parents=True)
    path, model = folder / "weights.pt", resnet18(norm="auxbn", width=1, num_classes=2)
    state = model.state_dict()
    nested = {"state_dict": state, "epoch": 3, "optimizer": {"lr": 0.1}}
    files = [save(state)]
    for zip_file in (True, False):
        for whole in (state, nested):
            torch.save(whole, path, _use_new_zipfile_serialization=zip_file)
            files.append(path.read_bytes())
    small = {"a": torch.zeros(2), "b": [1, 2], "c": {"d": torch.ones(1)}}
    torch.save(small, path, _use_new_zipfile_serialization=False)
    files.append(path.read_bytes())

    @st.composite
    def rezipped(draw: st.DrawFn) -> bytes:
        """A zip of torch whose pickle is damaged, with the right checksums."""
        file = io.BytesIO()
        with zipfile.ZipFile(io.BytesIO(files[1])) as whole, zipfile.ZipFile(file, "w") as new:
            for member in whole.namelist():
                data = whole.read(member)
                new.writestr(member, draw(hurt(data)) if member.endswith(".pkl") else data)
        return file.getvalue()

    def read(made: tuple[bytes, str]) -> None:
        path.write_bytes(made[0])
        found = find_weights(path)
        load_released(model, found.state, made[1])

    made = st.one_of(*map(hurt, files), rezipped(), safetensors())
    return Target(st.tuples(made, st.sampled_from(list(LOADERS))), read, 0.5)


def cache_target(folder: Path) -> Target:
    """A damaged cache is made again: what comes back is always what was made."""
    path = folder / "decoded-x.safetensors"
    tensors = {"train": torch.arange(40, dtype=torch.uint8), "test": torch.ones(3, 2)}

    def make() -> dict[str, torch.Tensor]:
        return {name: value.clone() for name, value in tensors.items()}

    cached_tensors(path, make)
    whole = path.read_bytes()

    def read(data: bytes) -> None:
        path.write_bytes(data)
        found = cached_tensors(path, make)
        assert found.keys() == tensors.keys()
        assert all(torch.equal(found[each], tensors[each]) for each in tensors)

    return Target(hurt(whole), read, 0.5)


def exports_target(folder: Path) -> Target:
    model = resnet18(norm="auxbn", width=1, num_classes=2).eval()
    images = torch.rand(2, 3, 8, 8)
    content = {
        "network": "resnet18",
        "arguments": {"norm": "bn", "width": 1, "num_classes": 2, "in_channels": 3},
    }
    place = folder / "exported"
    export(model, "adv", place, to="huggingface", images=images,
           description=Description(content))  # fmt: skip
    path = place / "config.json"

    def read(data: bytes) -> None:
        path.write_bytes(data)
        load_exported(place)(images)

    made = changed(content).map(json.dumps).map(str.encode)
    return Target(st.one_of(made, hurt(path.read_bytes()), odd.map(json.dumps).map(str.encode)),
                  read, 0.5)  # fmt: skip


def targets(folder: Path) -> dict[str, Target]:
    for each in ("archives", "cache"):
        (folder / each).mkdir()
    pictures = st.one_of(*map(hurt, IMAGES), st.sampled_from(TEXTS).map(
        lambda text: text.encode(errors="replace")))  # fmt: skip
    return {
        "archives": archive_target(folder / "archives"),
        "images": Target(pictures, read_image, 6),
        "arrays and tables": arrays_target(folder / "arrays"),
        "files of weights": weights_target(folder / "weights"),
        "decoded images": cache_target(folder / "cache"),
        "exported networks": exports_target(folder),
    }

"""Data sets as their makers write them to files.

Images are bytes (N, H, W, 3), or (N, H, W) where they are grey; ``parts`` maps "train" and "test",
or only "test", to images and labels.
"""

import json
import pickle
import shutil
import struct
import tarfile
from pathlib import Path

import numpy as np
from PIL import Image


def write_images(folder, parts, suffix="png"):
    """Writes <part>/<number>.png; yields path, label and part of each."""
    for part, (pixels, labels) in parts.items():
        (folder / part).mkdir(parents=True)
        for i, image in enumerate(pixels):
            Image.fromarray(image).save(folder / part / f"{i}.{suffix}")
            yield f"{part}/{i}.{suffix}", int(labels[i]), part


def write_classes(folder, parts, names, suffix="png"):
    """Writes <part>/<class>/<number>.png."""
    for part, (pixels, labels) in parts.items():
        for i, image in enumerate(pixels):
            place = folder / part / names[labels[i]]
            place.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(place / f"{i}.{suffix}")
    return folder


def write_csv(folder, parts, names):
    rows = [f"{path},{names[label]},{part}\n" for path, label, part in write_images(folder, parts)]
    (folder / "set.csv").write_text("path,label,split\n" + "".join(rows))
    return folder / "set.csv"


def write_parquet(folder, parts, names=None):
    """Writes hub/data/<part>-00000-of-00001.parquet as the Hugging Face hub has them."""
    import pyarrow
    from pyarrow import parquet

    rows = list(write_images(folder / "png", parts))
    (folder / "hub" / "data").mkdir(parents=True)
    features = {"label": {"names": names, "_type": "ClassLabel"}}
    told = {"huggingface": json.dumps({"info": {"features": features}})} if names else None
    for part in parts:
        chosen = [(p, label) for p, label, of in rows if of == part]
        images = [{"bytes": (folder / "png" / p).read_bytes(), "path": None} for p, _ in chosen]
        table = pyarrow.table({"img": images, "label": [label for _, label in chosen]})
        table = table.replace_schema_metadata(told)
        parquet.write_table(table, folder / "hub" / "data" / f"{part}-00000-of-00001.parquet")
    return folder / "hub"


def pack(folder, archive, mode="w:xz"):
    """Packs a folder, under its own name, as a tar archive, or a zip with ``mode="zip"``."""
    if mode == "zip":
        shutil.make_archive(str(archive), "zip", folder.parent, folder.name)
        return Path(f"{archive}.zip")
    with tarfile.open(archive, mode) as tar:
        tar.add(folder, folder.name)
    return archive


def idx(values):
    header = struct.pack(f">I{values.ndim}I", 0x800 + values.ndim, *values.shape)
    return header + values.astype(np.uint8).tobytes()


def write_idx(folder, parts):
    """Writes the four files of MNIST."""
    for part, (pixels, labels) in parts.items():
        start = "train" if part == "train" else "t10k"
        for kind, values in (("images-idx3", pixels), ("labels-idx1", labels)):
            (folder / f"{start}-{kind}-ubyte").write_bytes(idx(values))
    return folder


# Files of CIFAR-10; a batch is pixels (N, 3072) and labels.
CIFAR10 = [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]


def cifar10_batches(parts):
    """Divides images of 32 x 32 into CIFAR-10's files, with one training image in each."""
    rows = {part: x.transpose(0, 3, 1, 2).reshape(len(x), -1) for part, (x, _) in parts.items()}
    batches = {
        name: (rows["train"][i : i + 1], parts["train"][1][i : i + 1])
        for i, name in enumerate(CIFAR10[:5])
    }
    return batches | {"test_batch": (rows["test"], parts["test"][1])}


def cifar10_python(root, batches):
    folder = root / "cifar-10-batches-py"
    folder.mkdir()
    for name, (pixels, labels) in batches.items():
        content = pickle.dumps({"data": pixels, "labels": labels.tolist()}, protocol=2)
        (folder / name).write_bytes(content)
    return folder


def cifar10_binary(root, batches):
    folder = root / "cifar-10-batches-bin"
    folder.mkdir()
    for name, (pixels, labels) in batches.items():
        rows = np.concatenate([labels[:, None].astype(np.uint8), pixels], axis=1)
        (folder / f"{name}.bin").write_bytes(rows.tobytes())
    return folder

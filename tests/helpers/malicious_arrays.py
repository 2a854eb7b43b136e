"""Files of arrays and tables that must be refused."""

import gzip
import io
import struct

import numpy as np
import pyarrow
import torch
from malicious_case import case, write
from pyarrow import parquet
from scipy.io import savemat

from robustnorm.data import load_dataset

LABELS = np.zeros(4, np.int64)


def read(path):
    return lambda: load_dataset(str(path), root=path.parent / "cache")


@case
def npz_bomb(folder):
    np.savez_compressed(
        folder / "a.npz", x_test=np.zeros((4, 4000, 4000, 3), np.uint8), y_test=LABELS
    )
    return read(folder / "a.npz")


@case
def npz_of_pickles(folder):
    np.savez(folder / "a.npz", x_test=np.array([{}] * 4, object), y_test=LABELS)
    return read(folder / "a.npz")


@case
def npy_of_a_terabyte(folder):
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        file, {"descr": "|u1", "fortran_order": False, "shape": (10**6, 1000, 1000)}
    )
    write(folder / "x_test.npy", file.getvalue())
    np.save(folder / "y_test.npy", LABELS)
    return read(folder / "x_test.npy")


@case
def npy_header_nested_deeply(folder):
    header = b"(" * 60_000
    write(folder / "x_test.npy", b"\x93NUMPY\x02\x00" + struct.pack("<I", len(header)) + header)
    np.save(folder / "y_test.npy", LABELS)
    return read(folder / "x_test.npy")


@case
def tensors_that_repeat_one_value(folder):
    images = torch.zeros(1, dtype=torch.uint8).expand(4, 3, 20_000, 20_000)
    torch.save({"x_test": images, "y_test": torch.zeros(4)}, folder / "a.pt")
    return read(folder / "a.pt")


@case
def parquet_that_repeats_one_image(folder):
    image = {"bytes": bytes(200_000), "path": None}
    table = pyarrow.table({"image": [image] * 400, "label": [0] * 400})
    parquet.write_table(table, folder / "a.parquet", compression="zstd")
    return read(folder / "a.parquet")


@case
def idx_bomb(folder):
    header = struct.pack(">4I", 0x803, 40_000_000, 1, 1)
    write(folder / "t10k-images-idx3-ubyte.gz", gzip.compress(header + bytes(40_000_000)))
    write(folder / "t10k-labels-idx1-ubyte.gz", gzip.compress(struct.pack(">2I", 0x801, 0)))
    return read(folder)


@case
def mat_bomb(folder):
    for part in ("train", "test"):
        content = {"X": np.zeros((32, 32, 3, 10_000), np.uint8), "y": np.ones((10_000, 1))}
        savemat(folder / f"{part}_32x32.mat", content, do_compression=True)
    return lambda: load_dataset("svhn", root=folder)


@case
def table_that_leads_outside(folder):
    write(folder / "a.csv", "path,label\n../../../../etc/passwd,0\n")
    return read(folder / "a.csv")

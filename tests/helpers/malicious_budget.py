"""Files within the sizes that are allowed, made to take time or memory all the same."""

import io
import json
import struct
import tarfile
import zlib

import numpy as np
from malicious_case import case, write
from malicious_images import archive, images, png
from malicious_text import record, settings
from PIL import Image

from robustnorm.data import load_dataset
from robustnorm.exchange.foreign import read_weights

SMALL = png((8, 8))


@case
def archive_of_a_name_of_250_000_folders(folder):
    return archive(folder, ("a/" * 250_000 + "1.png", SMALL))


@case
def archive_of_one_long_name_among_many(folder):
    names = [f"{part}/a/{i}.png" for part in ("train", "test") for i in range(1500)]
    return archive(folder, ("train/a/" + "x" * 900_000, SMALL), *((n, SMALL) for n in names))


@case
def zip_directory_of_200_000_members_without_content(folder):
    entry = b"PK\x01\x02" + bytes(24) + struct.pack("<H", 1) + bytes(16) + b"x"
    end = struct.pack("<IHHHHIIH", 0x06054B50, 0, 0, 65535, 65535, 47 * 200_000, 4, 0)
    path = write(folder / "images.zip", b"PK\x03\x04" + entry * 200_000 + end)
    return lambda: load_dataset(str(path), root=folder / "cache")


@case
def tiff_of_150_000_pages(folder):
    """Each page is the first again."""
    first = io.BytesIO()
    Image.new("L", (4, 4)).save(first, "TIFF")
    data = bytearray(first.getvalue())
    place = struct.unpack("<I", data[4:8])[0]
    directory = bytes(data[place : place + 2 + 12 * data[place]])
    begin, size = len(data), len(directory) + 4
    data[place + size - 4 : place + size] = struct.pack("<I", begin)
    for number in range(150_000):
        data += directory + struct.pack("<I", begin + size * (number + 1))
    data[-4:] = bytes(4)
    return images(folder, bytes(data), "tif")


@case
def jpeg_of_2_000_scans(folder):
    file = io.BytesIO()
    Image.fromarray(np.zeros((4096, 4096), np.uint8)).save(file, "JPEG", progressive=True)
    data = file.getvalue()
    last = data.rindex(b"\xff\xda")
    return images(folder, data[:-2] + data[last:-2] * 2000 + data[-2:], "jpg")


@case
def png_of_compressed_text(folder):
    packed = b"iTXtk\0\1\0\0\0"[4:] + zlib.compress(bytes(60_000_000), 9)
    chunk = b"iTXt" + packed
    text = struct.pack(">I", len(packed)) + chunk + struct.pack(">I", zlib.crc32(chunk))
    return images(folder, SMALL[:33] + text * 20 + SMALL[33:])


@case
def csv_that_lists_one_image_100_000_times(folder):
    write(folder / "i.png", png((64, 64)))
    write(folder / "a.csv", "path,label\n" + "i.png,0\n" * 100_000)
    return lambda: load_dataset(str(folder / "a.csv"), root=folder / "cache")


@case
def folder_that_holds_itself_three_times(folder):
    images(folder, SMALL)
    for name in "xyz":
        (folder / "train" / "cat" / name).symlink_to(folder / "train" / "cat")
    return lambda: load_dataset(str(folder), root=folder / "cache")


@case
def yaml_of_9_000_keys(folder):
    return settings(folder, "".join(f"a{i}:\n" for i in range(9_000)))


@case
def yaml_of_one_long_line(folder):
    return settings(folder, "attacks: [" + "a," * 31_000 + "]\nx: 1\n")


@case
def record_of_five_million_values(folder):
    return record(folder, margins={"x": [0] * 5_000_000})


@case
def record_of_300_000_values(folder):
    return record(folder, versions={str(i): "1" for i in range(300_000)}, device=3)


@case
def weights_of_a_million_names(folder):
    header = json.dumps({str(i): {} for i in range(700_000)}).encode()
    path = write(folder / "w.safetensors", struct.pack("<Q", len(header)) + header)
    return lambda: read_weights(path)


@case
def tar_of_sparse_headers(folder):
    member = tarfile.TarInfo("train/a/1.png")
    member.type, member.size = tarfile.GNUTYPE_SPARSE, 2**40
    path = write(folder / "images.tar", member.tobuf() + bytes(10240))
    return lambda: load_dataset(str(path), root=folder / "cache")

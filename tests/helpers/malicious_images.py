"""Archives and images that must be refused."""

import io
import os
import tarfile
import zipfile
import zlib

import numpy as np
from malicious_case import case, write
from PIL import Image

from robustnorm.data import load_dataset


def archive(folder, *members, mode="w"):
    """A tar archive of (name or TarInfo, data) pairs."""
    path = folder / "images.tar"
    with tarfile.open(path, mode) as tar:
        for member, data in members:
            if isinstance(member, str):
                member = tarfile.TarInfo(member)
                member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return lambda: load_dataset(str(path), root=folder / "cache")


def special(name, kind, target=""):
    member = tarfile.TarInfo(name)
    member.type, member.linkname = kind, target
    return member, b""


def png(pixels):
    file = io.BytesIO()
    Image.fromarray(np.full(pixels, 7, np.uint8)).save(file, "PNG")
    return file.getvalue()


def images(folder, data, suffix="png"):
    for part in ("train", "test"):
        (folder / part / "cat").mkdir(parents=True)
        write(folder / part / "cat" / f"1.{suffix}", data)
    return lambda: load_dataset(str(folder), root=folder / "cache")


@case
def archive_member_outside(folder):
    return archive(folder, ("../../owned", b"x"))


@case
def archive_member_absolute(folder):
    return archive(folder, (str(folder / "owned"), b"x"))


@case
def archive_with_a_symbolic_link(folder):
    return archive(folder, special("train", tarfile.SYMTYPE, "/"), ("train/owned", b"x"))


@case
def archive_with_a_hard_link(folder):
    return archive(folder, special("train/passwd", tarfile.LNKTYPE, "/etc/passwd"))


@case
def archive_with_a_pipe(folder):
    return archive(folder, special("train/cat/1.png", tarfile.FIFOTYPE))


@case
def archive_member_twice(folder):
    return archive(folder, ("train/cat/1.png", b"x"), ("train/cat/1.png", b"y"))


@case
def xz_bomb(folder):
    return archive(folder, ("train/cat/1.png", bytes(100_000_000)), mode="w:xz")


@case
def gzip_bomb_of_many_members(folder):
    return archive(
        folder, *((f"train/cat/{i}.png", bytes(10_000_000)) for i in range(20)), mode="w:gz"
    )


@case
def archive_with_a_header_of_a_gigabyte(folder):
    member = tarfile.TarInfo("pax")
    member.type, member.size = tarfile.XHDTYPE, 2**30
    path = write(folder / "images.tar", member.tobuf() + bytes(1024))
    return lambda: load_dataset(str(path), root=folder / "cache")


@case
def truncated_archive(folder):
    read = archive(folder, ("train/cat/1.png", os.urandom(5000)), mode="w:xz")
    path = folder / "images.tar"
    write(path, path.read_bytes()[:-2000])
    return read


@case
def archive_of_10_000_members(folder):
    members = ((f"train/cat/{i}.png", b"") for i in range(10_000))  # some 25 bytes each
    return archive(folder, *members, mode="w:gz")


@case
def archive_of_headers_in_headers(folder):
    header = tarfile.TarInfo("././@LongLink")
    header.type, header.size = tarfile.GNUTYPE_LONGNAME, 1
    path = write(folder / "images.tar", (header.tobuf() + b"a".ljust(512, b"\0")) * 3000)
    return lambda: load_dataset(str(path), root=folder / "cache")


@case
def archive_of_images_that_decode_to_gigabytes(folder):
    data = png((4096, 4096))
    names = [f"{part}/cat/{i}.png" for part in ("train", "test") for i in range(30)]
    return archive(folder, *((name, data) for name in names), mode="w:gz")


@case
def archive_without_its_end(folder):
    read = archive(folder, ("train/cat/1.png", png((4, 4))), ("test/cat/1.png", png((4, 4))))
    path = folder / "images.tar"
    write(path, path.read_bytes()[: 4 * 512])  # two members, whole
    return read


@case
def archive_that_goes_on_after_its_end(folder):
    read = archive(folder, ("train/cat/1.png", png((4, 4))), ("test/cat/1.png", png((4, 4))))
    path = folder / "images.tar"
    write(path, path.read_bytes() * 2)
    return read


@case
def gzip_with_another_checksum(folder):
    bmp = io.BytesIO()
    Image.new("RGB", (4, 4)).save(bmp, "BMP")
    members = ((f"{part}/cat/1.bmp", bmp.getvalue()) for part in ("train", "test"))
    read = archive(folder, *members, mode="w:gz")
    path = folder / "images.tar"
    data = bytearray(path.read_bytes())
    data[-8] ^= 1
    write(path, bytes(data))
    return read


@case
def zip_bomb_of_images(folder):
    path = folder / "images.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as packed:
        packed.writestr("train/cat/1.png", bytes(100_000_000))
    return lambda: load_dataset(str(path), root=folder / "cache")


@case
def zip_with_a_symbolic_link(folder):
    path = folder / "images.zip"
    with zipfile.ZipFile(path, "w") as packed:
        link = zipfile.ZipInfo("train/owned")
        link.external_attr = 0o120777 << 16
        packed.writestr(link, "/etc/passwd")
    return lambda: load_dataset(str(path), root=folder / "cache")


@case
def png_without_most_rows(folder):
    data = png((64, 64))
    rows = zlib.compress(bytes(65))
    begin, end = data.index(b"IDAT") - 4, data.index(b"IEND") - 4
    chunk = b"IDAT" + rows
    short = len(rows).to_bytes(4, "big") + chunk + zlib.crc32(chunk).to_bytes(4, "big")
    return images(folder, data[:begin] + short + data[end:])


@case
def image_bomb(folder):
    # 12,000 x 12,000: where Pillow alone only warns.
    return images(folder, png((12_000, 12_000)))


@case
def image_that_is_a_program(folder):
    return images(folder, b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\nshowpage\n", "eps")

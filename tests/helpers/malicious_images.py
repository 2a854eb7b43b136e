"""Archives and images that must be refused."""

import io
import os
import tarfile

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
def image_bomb(folder):
    # 12,000 x 12,000: where Pillow alone only warns.
    return images(folder, png((12_000, 12_000)))


@case
def image_that_is_a_program(folder):
    return images(folder, b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\nshowpage\n", "eps")

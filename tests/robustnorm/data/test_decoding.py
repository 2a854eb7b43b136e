"""Every kind of image is shown as a viewer shows it, or refused in one sentence."""

import io
import struct
import zlib
from contextlib import suppress

import numpy as np
import pytest
from PIL import Image

from robustnorm.data.decoding import Crop, decode, shape_of
from robustnorm.data.errors import DataError, RefusedDataError

PIXELS = np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)


def encoded(pixels=PIXELS, mode=None, kind="PNG", **options):
    file = io.BytesIO()
    image = Image.fromarray(pixels)
    (image if mode is None else image.convert(mode)).save(file, kind, **options)
    return file.getvalue()


def png(bits, colour, raw, interlaced=0, size=(4, 4)):
    def chunk(kind, content):
        checksum = struct.pack(">I", zlib.crc32(kind + content))
        return struct.pack(">I", len(content)) + kind + content + checksum

    header = struct.pack(">IIBBBBB", *size, bits, colour, 0, 0, interlaced)
    chunks = (b"IHDR", header), (b"IDAT", zlib.compress(raw)), (b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*each) for each in chunks)


@pytest.mark.parametrize("kind", ["PNG", "BMP", "PPM", "TIFF"])
def test_pixels_are_those_that_were_saved(kind):
    data = encoded(kind=kind)
    assert shape_of(data, "x") == (3, 20, 30)
    assert np.array_equal(decode(data, "x", channels=3), PIXELS.transpose(2, 0, 1))


@pytest.mark.parametrize("mode", ["1", "L", "P"])
def test_grey_and_palette_images_are_shown_as_pillow_shows_them(mode):
    expected = np.asarray(Image.fromarray(PIXELS).convert(mode).convert("RGB"))
    found = decode(encoded(mode=mode), "x", channels=3)
    assert np.array_equal(found, expected.transpose(2, 0, 1))
    assert shape_of(encoded(mode=mode), "x").channels == (3 if mode == "P" else 1)


def test_transparent_pixels_are_laid_on_white():
    pixels = np.zeros((1, 3, 4), np.uint8)
    pixels[0, :, 3] = 0, 255, 51  # invisible, opaque, one fifth
    assert decode(encoded(pixels), "x", channels=3)[0].tolist() == [[255, 0, 204]]


def test_orientation_of_exif_is_followed():
    exif = Image.Exif()
    exif[0x0112] = 6
    data = encoded(exif=exif)
    assert shape_of(data, "x") == (3, 30, 20)
    turned = np.rot90(PIXELS, -1).transpose(2, 0, 1)
    assert np.array_equal(decode(data, "x", channels=3), turned)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (png(16, 2, bytes(4 * 25)), "more than 8 bits per value"),
        (png(16, 0, bytes(4 * 9)), "more than 8 bits per value"),
        (b"P6 2 2 65535\n" + bytes(24), "more than 8 bits per value"),
        (encoded(mode="F", kind="TIFF"), "more than 8 bits per value"),
        (encoded(mode="LAB", kind="TIFF"), "has the mode LAB"),
        *(
            (encoded(kind=kind, save_all=True, append_images=[Image.new("RGB", (30, 20))]), "holds")
            for kind in ("PNG", "WEBP", "TIFF")
        ),
    ],
)
def test_what_would_be_read_wrongly_is_refused(data, message):
    for read in (shape_of, lambda *given: decode(*given, channels=3)):
        with pytest.raises(DataError, match=message):
            read(data, "x")


# (bits, kind of colour, bytes of a whole image of 4 x 4 in one pass)
@pytest.mark.parametrize("kind", [(8, 2, 52), (8, 0, 20), (1, 0, 8), (4, 0, 12)])
@pytest.mark.parametrize("interlaced", [0, 1])
def test_png_without_its_last_rows_is_refused_rather_than_black(kind, interlaced):
    bits, colour, rows = kind
    if interlaced:
        rows = sum(
            lines * (1 + -(-columns * bits * (3 if colour == 2 else 1) // 8))
            for columns, lines in ((1, 1), (1, 1), (2, 1), (2, 2), (4, 2))
        )
    assert decode(png(bits, colour, bytes(rows), interlaced), "x", channels=3).shape == (3, 4, 4)
    with pytest.raises(RefusedDataError, match="1 bytes of its pixels are missing"):
        decode(png(bits, colour, bytes(rows - 1), interlaced), "x", channels=3)


def test_image_that_is_cut_off_is_refused():
    for kind in ("PNG", "BMP", "JPEG", "TIFF", "PPM", "WEBP"):
        data = encoded(kind=kind)
        with pytest.raises(RefusedDataError, match="not a readable image"):
            decode(data[: len(data) // 2], "x", channels=3)


def test_no_damage_ends_in_another_error():
    random = np.random.default_rng(0)
    for kind in ("PNG", "BMP", "JPEG", "TIFF", "PPM", "WEBP"):
        for _ in range(60):
            data = bytearray(encoded(kind=kind))
            for place in random.integers(min(len(data), 200), size=3):
                data[place] = random.integers(256)
            with suppress(DataError):
                shape_of(bytes(data), "x")
                decode(bytes(data), "x", channels=3)


def test_a_part_of_an_image_is_scaled():
    data = encoded(kind="BMP")
    part = decode(data, "x", channels=3, size=10, crop=Crop(1 / 6, 1, left=0.5, top=1))
    assert np.array_equal(part, PIXELS[10:, 10:20].transpose(2, 0, 1))

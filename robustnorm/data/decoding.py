"""Decodes images as a viewer would show them, or refuses them with the reason."""

from __future__ import annotations

import io
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from robustnorm.data.errors import DataError, RefusedDataError
from robustnorm.system.errors import UserError
from robustnorm.system.untrusted import MOST_PIXELS

# Formats of plain pixels; Pillow opens some others by running programs such as Ghostscript.
_FORMATS = ("BMP", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
_GREY = frozenset({"1", "L"})
_COLOUR = frozenset({"RGB", "P", "CMYK", "YCbCr"})
_TRANSPARENT = frozenset({"RGBA", "LA", "PA", "RGBX"})
# EXIF orientations that swap width and height.
_ORIENTATION, _TURNED = 0x0112, range(5, 9)
_WITH_ORIENTATION = (b"eXIf", b"Raw profile type", b"XML:com.adobe.xmp")  # chunks of a PNG
# Marker of a JPEG's scan. Progressive images have about 10; each goes over all pixels.
_SCAN, _MOST_SCANS = b"\xff\xda", 16
# PNG: samples per pixel by colour type, and the passes of an interlaced image.
_SAMPLES = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
_PASSES = (
    *((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4)),
    *((0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2)),
)


class Shape(NamedTuple):
    """Shape of an image: 1 channel if it is grey, otherwise 3."""

    channels: int
    height: int
    width: int

    def __str__(self) -> str:
        return f"{self.width}x{self.height} {'grey' if self.channels == 1 else 'RGB'}"


class Crop(NamedTuple):
    """A crop of an image, independent of its size.

    Args:
        area: Fraction of the image's area.
        ratio: Width over height.
        left: Fraction of the remaining width to the left, in [0, 1].
        top: Fraction of the remaining height above, in [0, 1].
    """

    area: float
    ratio: float
    left: float
    top: float

    def box(self, width: int, height: int) -> tuple[float, float, float, float]:
        """Returns left, top, right and bottom in pixels, clipped to the image."""
        across = min(width, (width * height * self.area * self.ratio) ** 0.5)
        down = min(height, (width * height * self.area / self.ratio) ** 0.5)
        left, top = self.left * (width - across), self.top * (height - down)
        return left, top, left + across, top + down


def shape_of(data: bytes, where: str) -> Shape:
    """Returns the shape of ``decode``'s result, from the header alone.

    Args:
        data: Content of the file.
        where: Name of the file, for errors.

    Raises:
        DataError: As ``decode``.
    """
    with _opened(data, where) as image:
        width, height = image.size
        # In a PNG the orientation is at the end, and Pillow decodes everything to find it.
        may_turn = image.format != "PNG" or any(name in data for name in _WITH_ORIENTATION)
        if may_turn and image.getexif().get(_ORIENTATION) in _TURNED:
            width, height = height, width
        return Shape(1 if image.mode in _GREY else 3, height, width)


def decode(
    data: bytes,
    where: str,
    *,
    channels: int,
    size: int | None = None,
    crop: Crop | None = None,
) -> NDArray[np.uint8]:
    """Decodes an image (channels, height, width) as a viewer would show it.

    Applies EXIF's orientation and puts transparent pixels on a white background.

    Args:
        data: Content of the file.
        where: Name of the file, for errors.
        channels: 3 for RGB, to which grey images are converted, or 1 for grey.
        size: Scale the shorter side to this and crop the center; unchanged by default.
        crop: A crop to scale to ``size`` instead.

    Raises:
        DataError: On more than 8 bits per value, several pictures in one file or an unsupported
            mode; a RefusedDataError on damage or more than ``MOST_PIXELS`` pixels.
    """
    with _opened(data, where) as image:
        pixels = _shown(image, data, channels, 2 * size if size and crop is None else None)
        if size and crop:
            box = crop.box(*pixels.size)
            pixels = pixels.resize((size, size), Image.Resampling.BILINEAR, box, reducing_gap=2.0)
        elif size:
            pixels = ImageOps.fit(pixels, (size, size), Image.Resampling.BILINEAR)
        values = np.asarray(pixels)
    return values[None] if values.ndim == 2 else values.transpose(2, 0, 1)


def decode_picture(data: bytes, where: str, *, side: int | None = None) -> Image.Image:
    """Decodes an image in RGB as a viewer would show it; errors are those of ``decode``.

    Args:
        data: Content of the file.
        where: Name of the file, for errors.
        side: Side in pixels that suffices, for formats that can be decoded at a lower resolution.
    """
    with _opened(data, where) as image:
        return _shown(image, data, 3, side)


def _shown(image: Image.Image, data: bytes, channels: int, side: int | None) -> Image.Image:
    if image.format == "PNG":
        _check_png(data)
    if side and image.format == "JPEG":
        image.draft(None, (side, side))  # decodes at a lower resolution
    return _without_alpha(ImageOps.exif_transpose(image), channels)


def _without_alpha(image: Image.Image, channels: int) -> Image.Image:
    if image.mode in _TRANSPARENT or "transparency" in image.info:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image)
    return image.convert("L" if channels == 1 else "RGB")


@contextmanager
def _opened(data: bytes, where: str) -> Iterator[Image.Image]:
    """Opens an image after checking its header; turns errors within the block into a DataError."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about metadata, and what is refused below
            with Image.open(io.BytesIO(data), formats=_FORMATS) as image:
                _check_header(image, where)
                _check_scans(image, data, where)
                yield image
    except (UserError, MemoryError):
        raise
    # Pillow may raise anything on a damaged image.
    except Exception as error:
        reason = str(error).partition(" <")[0] or type(error).__name__  # without an address
        raise RefusedDataError(
            f"{where} is not a readable image ({reason.partition(chr(10))[0][:200]}); replace or "
            "remove it"
        ) from error


def _check_header(image: Image.Image, where: str) -> None:
    if image.width * image.height > MOST_PIXELS:
        raise RefusedDataError(
            f"{where} has {image.width}x{image.height} pixels, more than {MOST_PIXELS:,}; scale it "
            "down or remove it"
        )
    if image.mode.startswith(("I", "F")) or _is_wide(image):
        raise DataError(f"{where} has more than 8 bits per value; convert it to 8")
    if image.mode not in _GREY | _COLOUR | _TRANSPARENT:
        raise DataError(f"{where} has the mode {image.mode}; convert it to RGB or to grey (L)")
    if _has_several(image):
        raise DataError(f"{where} holds several pictures; save the right one by itself")


def _has_several(image: Image.Image) -> bool:
    """Returns whether a file has frames or pages; a camera's previews (MPO) are neither."""
    if image.format != "TIFF":
        return getattr(image, "n_frames", 1) > 1 and image.format != "MPO"
    try:
        image.seek(1)  # counting pages would read all of them
    except EOFError:
        return False
    return True


def _check_scans(image: Image.Image, data: bytes, where: str) -> None:
    """Raises a RefusedDataError on a JPEG whose many scans would take long to decode."""
    scans = data.count(_SCAN) if image.format in ("JPEG", "MPO") else 0
    if scans * image.width * image.height > _MOST_SCANS * MOST_PIXELS:
        raise RefusedDataError(f"{where} has {scans} scans; save it again, or remove it")


def _is_wide(image: Image.Image) -> bool:
    """Returns whether values have more than 8 bits although the mode says RGB."""
    for tile in getattr(image, "tile", ()):
        arguments = tile[3] if isinstance(tile[3], tuple) else (tile[3],)
        if image.format == "PPM":  # the largest value is among them
            if any(isinstance(each, int) and each > 255 for each in arguments):
                return True
        elif any(isinstance(each, str) and ";16" in each for each in arguments):
            return True
    return False


def _check_png(data: bytes) -> None:
    """Raises a ValueError when rows are missing, which Pillow would show as black."""
    width, height = int.from_bytes(data[16:20]), int.from_bytes(data[20:24])
    bits, colour, interlaced = data[24], data[25], data[28]
    needed = 0
    for left, top, across, down in _PASSES if interlaced else ((0, 0, 1, 1),):
        columns, rows = -(-(width - left) // across), -(-(height - top) // down)
        if columns > 0 and rows > 0:
            needed += rows * (1 + -(-columns * bits * _SAMPLES[colour] // 8))
    decompressor, offset = zlib.decompressobj(), 8
    while offset + 8 <= len(data) and needed > 0:
        length, kind = int.from_bytes(data[offset : offset + 4]), data[offset + 4 : offset + 8]
        if kind == b"IDAT":
            compressed = data[offset + 8 : offset + 8 + length]
            while compressed and needed > 0 and not decompressor.eof:
                needed -= len(decompressor.decompress(compressed, 2**16))
                compressed = decompressor.unconsumed_tail
        offset += 12 + length
    if needed > 0:
        raise ValueError(f"{needed} bytes of its pixels are missing")

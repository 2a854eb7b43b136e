"""Applies the style of one picture to another."""

from __future__ import annotations

import io
import logging
from pathlib import Path

import torch
from PIL import Image

from robustnorm.applications.style.pictures import read_picture, to_image, to_tensor
from robustnorm.applications.style.runs import load_network
from robustnorm.data.batches import to_float
from robustnorm.settings.style import StylizeSettings
from robustnorm.system.device import resolve_device
from robustnorm.system.errors import UsageError
from robustnorm.system.files import write_atomically

log = logging.getLogger("robustnorm")


def stylize(settings: StylizeSettings) -> None:
    """Writes a picture with the content of one picture and the style of another.

    Args:
        settings: The network, the pictures, and the file to write.

    Raises:
        UsageError, CheckpointError: When the run's folder is unusable, or ``side`` is too small.
        DataError: When a picture is damaged or too small.
        DiskError: When the file cannot be written.
    """
    device = resolve_device(settings.device)
    network, manifest = load_network(Path(settings.run))
    network = network.to(device).eval()
    least = network.encoder.least_side
    pictures = []
    for path in (settings.content, settings.style):
        picture = _scaled(read_picture(Path(path)), settings.side)
        if min(picture.size) < least:
            raise UsageError(
                f"{path}, scaled down by --side, has {picture.width}x{picture.height} pixels; the "
                f"network needs {least} on each side: use a larger --side"
            )
        pictures.append(to_float(to_tensor(picture))[None].to(device))
    content, style = pictures
    with torch.no_grad():
        painted = to_image(network(content, style)[0])
    into, file = Path(settings.into), io.BytesIO()
    painted.save(file, format="PNG" if into.suffix.lower() == ".png" else "JPEG")
    write_atomically(into, file.getvalue())
    log.info(
        "wrote %s, %dx%d pixels, painted by %s after %d steps",
        into, *painted.size, manifest["config"]["row"], manifest["progress"]["step"],
    )  # fmt: skip


def _scaled(picture: Image.Image, side: int | None) -> Image.Image:
    """Returns a picture scaled down so that its longer side is at most ``side``."""
    if side is not None:
        picture.thumbnail((side, side), Image.Resampling.LANCZOS)
    return picture

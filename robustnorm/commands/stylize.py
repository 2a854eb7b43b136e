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
from robustnorm.system.files import write_atomically

log = logging.getLogger("robustnorm")


def stylize(settings: StylizeSettings) -> None:
    """Writes a picture with the content of one picture and the style of another.

    Args:
        settings: The network, the pictures, and the file to write.

    Raises:
        UsageError, CheckpointError: When the run's folder is unusable.
        DataError: When a picture is damaged or too small.
        DiskError: When the file cannot be written.
    """
    device = resolve_device(settings.device)
    network, manifest = load_network(Path(settings.run))
    network = network.to(device).eval()
    content, style = (
        to_float(to_tensor(_scaled(read_picture(Path(path)), settings.side)))[None].to(device)
        for path in (settings.content, settings.style)
    )
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

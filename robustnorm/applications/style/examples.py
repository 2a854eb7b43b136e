"""The pictures of Figure 8: held-out styles applied to photographs by the networks of one seed."""

from __future__ import annotations

import torch
from PIL import Image, ImageOps
from torch import Tensor

from robustnorm.applications.style.data import Sources
from robustnorm.applications.style.encoders import figure_folder
from robustnorm.applications.style.pictures import Pictures, embedded, to_tensor
from robustnorm.applications.style.results import NAMES
from robustnorm.applications.style.runs import load_network
from robustnorm.data.batches import to_float
from robustnorm.settings.style import StyleSettings

# Numbers of contents and of styles; every content is combined with every style.
_CONTENTS, _STYLES = 2, 3
_PHOTOGRAPHS = ("chelsea", "rocket")


def paint(
    settings: StyleSettings, sources: Sources, seed: int
) -> list[tuple[Tensor, Tensor, dict[str, Tensor]]]:
    """Returns content, style and each row's output, for all pairs of a few pictures.

    The styles are held out; the content is held out if folders were given, and otherwise embedded
    photographs.

    Args:
        settings: Settings of the figure, whose rows have been trained with the seed.
        sources: The pictures of the figure.
        seed: Seed of the networks.
    """
    side = settings.crop * 3 // 2
    networks = {
        NAMES[row]: load_network(figure_folder(settings) / f"{row}-seed{seed}")[0].eval()
        for row in settings.rows
    }
    if settings.content is None and settings.validation_content is None:
        contents = [_square(image, side) for image in embedded(_PHOTOGRAPHS)]
    else:
        contents = _some(sources.validation_content, _CONTENTS, side)
    styles = _some(sources.validation_style, _STYLES, side)
    painted = []
    for content in contents:
        for style in styles:
            with torch.no_grad():
                outputs = {
                    name: network(content[None], style[None])[0]
                    for name, network in networks.items()
                }
            painted.append((content, style, outputs))
    return painted


def _some(pictures: Pictures, count: int, side: int) -> list[Tensor]:
    """Returns the centers of a few pictures, evenly spread over all of them."""
    chosen = [pictures[i * len(pictures) // count] for i in range(min(count, len(pictures)))]
    return [_middle(picture, side) for picture in chosen]


def _middle(picture: Tensor, side: int) -> Tensor:
    top, left = ((length - side) // 2 for length in picture.shape[1:])
    return to_float(picture[:, max(0, top) :, max(0, left) :][:, :side, :side])


def _square(image: Image.Image, side: int) -> Tensor:
    """Returns the center of a photograph, scaled down."""
    return to_float(to_tensor(ImageOps.fit(image, (side, side), Image.Resampling.LANCZOS)))

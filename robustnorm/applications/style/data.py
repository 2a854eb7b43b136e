"""Training and validation data of a figure: content, styles, and pairs of crops."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from robustnorm.applications.style.pictures import (
    HELD_OUT_STYLES,
    PHOTOGRAPHS,
    STYLES,
    Folder,
    InMemory,
    Pictures,
    content_hash,
    embedded,
    part_of,
    read_folder,
    scaled,
    textures,
    to_tensor,
)
from robustnorm.data import load_dataset
from robustnorm.data.batches import to_float
from robustnorm.data.dataset import Augmentation, Split
from robustnorm.data.dataset import Dataset as Classes
from robustnorm.data.errors import DataError
from robustnorm.settings.style import StyleSettings

# Crops per embedded photograph and texture used to train and test the small encoder.
_TRAIN_CROPS, _TEST_CROPS = 600, 40
# Seed of the validation crops, the same for every run.
_FIXED = 2102_11382


@dataclass(frozen=True)
class Sources:
    """The pictures of a figure.

    Args:
        classes: Labelled images that train the small encoder and may also serve as content; None
            with VGG.
        content: Content pictures for training.
        style: Style pictures for training.
        validation_content: Content pictures for validation.
        validation_style: Style pictures for validation.
    """

    classes: Classes | None
    content: Pictures
    style: Pictures
    validation_content: Pictures
    validation_style: Pictures

    def describe(self) -> dict[str, Any]:
        """Returns names, counts and hashes for the records."""
        parts = {
            "content": self.content,
            "style": self.style,
            "validation_content": self.validation_content,
            "validation_style": self.validation_style,
        }
        return {
            part: {"name": of.name, "pictures": len(of), "sha256": of.sha256}
            for part, of in parts.items()
        }


def load_sources(settings: StyleSettings) -> Sources:
    """Returns the pictures that the settings name.

    Raises:
        DataError: When pictures are missing or damaged; names the file and what to do.
        ImportError: When the embedded pictures are needed and scikit-image is not installed.
    """
    _check_paths(settings)
    root = Path(settings.data_root)

    def folder(path: str) -> Folder:
        return read_folder(Path(path), settings.resize, cache=root, threads=settings.workers or 2)

    classes = None
    if settings.vgg is None or settings.content is None:
        classes = (
            embedded_classes(settings.crop)
            if settings.data == "pictures"
            else load_dataset(settings.data, root=root, stream=False)
        )
        _check_classes(classes, settings.crop)
    if settings.content is None:
        assert classes is not None
        content: Pictures = _images(classes, classes.train, "training images")
        held_out: Pictures = _images(classes, classes.test, "test images")
    else:
        content, held_out = _divided(folder(settings.content), settings.validation_content)
    if settings.validation_content is not None:
        held_out = folder(settings.validation_content)
    if settings.style is None:
        style: Pictures = textures(STYLES, settings.crop)
        held_out_style: Pictures = textures(HELD_OUT_STYLES, settings.crop)
    else:
        style, held_out_style = _divided(folder(settings.style), settings.validation_style)
    if settings.validation_style is not None:
        held_out_style = folder(settings.validation_style)
    return Sources(classes, content, style, held_out, held_out_style)


def _check_paths(settings: StyleSettings) -> None:
    """Raises a DataError unless the named files and folders exist, before reading any of them."""
    for name in ("content", "style", "validation_content", "validation_style"):
        path = getattr(settings, name)
        if path is not None and not Path(path).is_dir():
            raise DataError(f"--{name} must be a folder of pictures; {path} is not a folder")
    if settings.vgg is not None and not Path(settings.vgg).is_file():
        raise DataError(
            f"--vgg must be a file of VGG-19's weights; there is no file {settings.vgg}"
        )


def _divided(folder: Folder, validation: str | None) -> tuple[Pictures, Pictures]:
    """Returns training and validation pictures; all of them train if ``validation`` is given."""
    if validation is not None:
        return folder, folder
    return part_of(folder, held_out=False), part_of(folder, held_out=True)


def _check_classes(classes: Classes, crop: int) -> None:
    _, channels, height, width = classes.train.images.shape
    if channels != 3 or min(height, width) < crop:
        raise DataError(
            f"style transfer needs RGB images of at least {crop}x{crop}, but {classes.name} has "
            f"{width}x{height} with {channels} channel(s); use other --data or a smaller --crop"
        )


def _images(classes: Classes, split: Split, what: str) -> InMemory:
    # Shuffled, because images may be sorted by class and a few of them should show every class.
    order = torch.randperm(len(split), generator=torch.Generator().manual_seed(_FIXED))
    # Images that were not streamed are a tensor.
    return InMemory(f"{classes.name}, {what}", split.images[order], classes.sha256)  # type: ignore[arg-type]


def embedded_classes(crop: int) -> Classes:
    """Returns crops of embedded photographs and textures, labelled by the picture they come from.

    Training crops come from the left three quarters of a picture, test crops from the right
    quarter.

    Args:
        crop: Side of a crop.
    """
    names = (*PHOTOGRAPHS, *STYLES)
    random = np.random.default_rng(_FIXED)
    parts: dict[str, tuple[list[Tensor], list[int]]] = {"train": ([], []), "test": ([], [])}
    for label, image in enumerate(embedded(names)):
        picture = to_tensor(scaled(image, 4 * crop))
        height, width = picture.shape[1:]
        border = 3 * width // 4
        for part, count, low, high in (
            ("train", _TRAIN_CROPS, 0, border),
            ("test", _TEST_CROPS, border, width),
        ):
            for _ in range(count):
                top = random.integers(height - crop + 1)
                left = low + random.integers(high - low - crop + 1)
                parts[part][0].append(picture[:, top : top + crop, left : left + crop])
                parts[part][1].append(label)
    splits = {
        part: Split(torch.stack(images), torch.tensor(labels))
        for part, (images, labels) in parts.items()
    }
    return Classes(
        name="pictures of scikit-image",
        classes=names,
        train=splits["train"],
        test=splits["test"],
        augmentation=Augmentation(padding=0, flip=True),
        sha256=content_hash([splits["train"].images, splits["test"].images]),
    )


class Pairs(Dataset[tuple[Tensor, Tensor]]):
    """Pairs of content and style crops by index, which index and seed alone determine.

    Args:
        content: Content pictures.
        style: Style pictures.
        crop: Side of the square crops.
        seed: Seed of the random choices.
        recolor: Mix the colors of the style at random.
        in_order: Take the pictures in order, not at random.
    """

    def __init__(
        self,
        content: Pictures,
        style: Pictures,
        crop: int,
        seed: int,
        *,
        recolor: bool = False,
        in_order: bool = False,
    ) -> None:
        self.content, self.style, self.crop, self.seed = content, style, crop, seed
        self.recolor, self.in_order = recolor, in_order

    def __getitem__(self, number: int) -> tuple[Tensor, Tensor]:
        random = np.random.default_rng((self.seed, number))
        content = self._crop(self.content, number, random)
        style = self._crop(self.style, number, random)
        return content, _recolored(style, random) if self.recolor else style

    def _crop(self, pictures: Pictures, number: int, random: np.random.Generator) -> Tensor:
        index = number % len(pictures) if self.in_order else int(random.integers(len(pictures)))
        picture = pictures[index]
        top, left = (int(random.integers(side - self.crop + 1)) for side in picture.shape[1:])
        return to_float(picture[:, top : top + self.crop, left : left + self.crop])


def _recolored(picture: Tensor, random: np.random.Generator) -> Tensor:
    """Applies a random color matrix near the identity to a picture (3, H, W)."""
    matrix = torch.from_numpy(np.eye(3) + 0.5 * random.standard_normal((3, 3))).float()
    shift = torch.from_numpy(0.3 * random.standard_normal((3, 1, 1))).float()
    return (torch.einsum("dc,chw->dhw", matrix, picture) + shift).clamp(0, 1)


def training_batches(
    sources: Sources, settings: StyleSettings, seed: int, first_step: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yields the training batches from a step on; they do not depend on earlier reads.

    Args:
        sources: The pictures.
        settings: Settings of the figure.
        seed: Seed of the run.
        first_step: The first step, counted from 0.
    """
    pairs = Pairs(sources.content, sources.style, settings.crop, seed, recolor=settings.recolor)
    size = settings.batch_size
    return iter(
        DataLoader(
            pairs,
            batch_size=size,
            sampler=range(first_step * size, settings.steps * size),
            num_workers=settings.workers,
            generator=torch.Generator(),  # leaves the global one unchanged
        )
    )


def validation_pairs(sources: Sources, settings: StyleSettings) -> list[tuple[Tensor, Tensor]]:
    """Returns the fixed pairs that validate every run, in batches."""
    pairs = Pairs(
        sources.validation_content,
        sources.validation_style,
        settings.crop,
        _FIXED,
        in_order=True,
    )
    size = 25
    count = settings.validation_pairs
    batches = [range(first, min(first + size, count)) for first in range(0, count, size)]
    return [  # of two parts each, content and style
        tuple(torch.stack(part) for part in zip(*(pairs[i] for i in batch), strict=True))  # type: ignore[misc]
        for batch in batches
    ]

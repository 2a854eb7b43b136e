"""Images before and after an attack, as a grid for a page."""

from __future__ import annotations

import base64
import binascii
import io
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from robustnorm.records.parts import Example
from robustnorm.records.record import Record, RecordError
from robustnorm.reporting.model_records import ModelRecords
from robustnorm.system.untrusted import MOST_PIXELS

# Largest number of characters that the grid may add to a page; further rows are omitted.
BUDGET = 700_000


@dataclass(frozen=True)
class AttackedImage:
    """One image after the attack on one branch, with the branch's predictions.

    Args:
        perturbation: Data URL of the amplified perturbation around mid-grey.
        adv_image: Data URL of the adversarial image.
        clean_class: Class predicted for the clean image.
        adv_class: Class predicted for the adversarial image.
    """

    perturbation: str
    adv_image: str
    clean_class: str
    adv_class: str


@dataclass(frozen=True)
class ExampleRow:
    """A test image as a data URL, its class, and each column's attack on it (None if not kept)."""

    image: str
    label: str
    attacked: list[AttackedImage | None]


@dataclass(frozen=True)
class ExampleGrid:
    """Examples of all models.

    Args:
        columns: Headings: model and attacked branch.
        rows: One per image.
        left_out: Number of images omitted for lack of space.
        amplification: Factor applied to the perturbations.
    """

    columns: list[str]
    rows: list[ExampleRow]
    left_out: int
    amplification: int


def example_grid(models: Sequence[ModelRecords], budget: int = BUDGET) -> ExampleGrid | None:
    """Returns the examples of the first seed of each model, or None if there are none.

    Args:
        models: Models whose records may keep different images.
        budget: Largest number of characters of data URLs.

    Raises:
        RecordError: When an example is not an image, or its two images differ in size.
    """
    found: dict[str, dict[int, Example]] = {}
    for model in models:
        for example in model.records[0].examples:
            answers = model.records[0].answers
            column = model.name if len(answers) == 1 else f"{model.name} ({example.answer})"
            found.setdefault(column, {})[example.image_id] = example
    if not found:
        return None
    first = models[0].records[0]
    # A perturbation of the full radius reaches black or white.
    amplification = max(1, int(1 / (2 * Fraction(first.protocol["epsilon"]))))
    ids = sorted({image_id for examples in found.values() for image_id in examples})
    rows: list[ExampleRow] = []
    for image_id in ids:
        row = _row(first, image_id, list(found.values()), amplification)
        budget -= len(row.image) + sum(
            len(cell.perturbation) + len(cell.adv_image) for cell in row.attacked if cell
        )
        if budget < 0:
            break
        rows.append(row)
    return ExampleGrid(list(found), rows, len(ids) - len(rows), amplification)


def _row(
    record: Record, image_id: int, columns: list[dict[int, Example]], amplification: int
) -> ExampleRow:
    classes = record.dataset["classes"]
    clean = ""
    attacked: list[AttackedImage | None] = []
    for examples in columns:
        example = examples.get(image_id)
        if example is None:
            attacked.append(None)
            continue
        image, adv_image = _decode(example.image, image_id), _decode(example.adv_image, image_id)
        if image.shape != adv_image.shape:
            raise RecordError(f"the two images of example {image_id} differ in size")
        change = amplification * (adv_image.astype(int) - image)
        clean = clean or _data_url(image)
        attacked.append(
            AttackedImage(
                _data_url(np.clip(128 + change, 0, 255).astype(np.uint8)),
                _data_url(adv_image),
                classes[example.clean_prediction],
                classes[example.adv_prediction],
            )
        )
    return ExampleRow(clean, classes[record.labels[record.image_ids.index(image_id)]], attacked)


def _decode(png: str, image_id: int) -> NDArray[np.uint8]:
    try:
        with Image.open(io.BytesIO(base64.b64decode(png, validate=True)), formats=["PNG"]) as image:
            if image.width * image.height > MOST_PIXELS:
                raise RecordError(f"example {image_id} has more than {MOST_PIXELS:,} pixels")
            return np.asarray(image)
    except (OSError, SyntaxError, binascii.Error, Image.DecompressionBombError) as error:
        raise RecordError(
            f"example {image_id} of a record is not a PNG image ({error}); evaluate again"
        ) from error


def _data_url(pixels: NDArray[np.uint8]) -> str:
    """Encodes the pixels anew, so that nothing else from a record reaches the page."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"

"""Writes Table 1's report from its records: tables, figures, page."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image
from torch import Tensor

from robustnorm.applications.gan.gradient_tables import gradient_tables
from robustnorm.applications.gan.record import GanRecord
from robustnorm.applications.gan.tables import group_runs, setting_note, summary, tables
from robustnorm.reporting.render import save_tables, to_text
from robustnorm.system.extras import check_report
from robustnorm.system.files import write_atomically


def write_grid(images: Tensor, path: Path) -> None:
    """Writes a grid of images, uint8 (rows, columns, C, H, W), as one PNG file."""
    rows, columns, channels, height, width = images.shape
    picture = images.permute(0, 3, 1, 4, 2).reshape(rows * height, columns * width, channels)
    file = io.BytesIO()
    array = picture.numpy()
    Image.fromarray(array if channels == 3 else array[:, :, 0]).save(file, format="png")
    write_atomically(path, file.getvalue())


def write_report(records: Sequence[GanRecord], folder: Path, command: str) -> str:
    """Writes tables, figures and page; returns summary and tables as text.

    Args:
        records: Records that differ only in network, norm and seed.
        folder: Output folder; its ``images/<run>.png`` are the grids on the page, each from the
            first seed that has one.
        command: The command shown on the page.

    Raises:
        UsageError: When the records differ in more, or there are none.
        ImportError: When the packages of the extra "report" are not installed.
    """
    check_report()
    from robustnorm.applications.gan.figures import LOOKS, figure2, figure3, image_grids
    from robustnorm.reporting.sections import Section, write_sections

    made, grouped, text = tables(records), group_runs(records), summary(records)
    compared = gradient_tables(records, setting_note(grouped))
    first = records[0]
    pictures = {}
    for (network, norm), found in grouped.items():
        paths = [folder / "images" / f"{network}-{norm}-seed{record.seed}.png" for record in found]
        for path in [path for path in paths if path.exists()][:1]:
            with Image.open(path) as image:
                array = np.asarray(image)
            pictures[network, norm] = array if array.ndim == 3 else array[:, :, None]
    sections = [
        Section("Table 1", made),
        Section("Figure 3: losses and scores over the steps", drawings=[figure3(records)]),
    ]
    if pictures:
        sections.append(Section("Images", drawings=[image_grids(records, pictures)]))
    if compared:
        sections.append(Section("Figure 2: gradients of the classes", compared, figure2(records)))
    optional = ("differences", "places", "gradients")
    save_tables([*made, *compared], folder, "tables", optional=optional)
    write_sections(
        folder,
        title="Table 1: conditional GANs with CCBN and SaBN",
        summary=text,
        facts={
            "Data": first.dataset["name"],
            "Runs": str(len(records)),
            "Steps": f"{first.config['steps']:,}",
            "Measured through": first.features["network"],
        },
        sections=sections,
        looks=LOOKS,
        command=command,
    )
    return f"{text}\n\n{to_text([*made, *compared])}"

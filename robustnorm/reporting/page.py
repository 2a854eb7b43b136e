"""The report: one self-contained HTML page, and its figures as files."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from matplotlib.figure import Figure

from robustnorm.evaluation.checks import CHECKS, verdict_of
from robustnorm.records.parts import Check
from robustnorm.records.record import Record
from robustnorm.reporting import drawing, figures
from robustnorm.reporting.claims import claims_table
from robustnorm.reporting.comparisons import paired_tests
from robustnorm.reporting.examples import example_grid
from robustnorm.reporting.gradients import gradient_table
from robustnorm.reporting.model_records import ModelRecords, group
from robustnorm.reporting.notes import attacks_text
from robustnorm.reporting.passes import accuracy_over_passes
from robustnorm.reporting.provenance import provenance
from robustnorm.reporting.render import Table, layout
from robustnorm.reporting.summary import deployment_summary, summary
from robustnorm.reporting.tables import tables, train_in
from robustnorm.system.files import disk_errors, write_atomically

log = logging.getLogger("robustnorm")

# A minus sign, not a hyphen in a name that begins with a digit.
_MINUS = re.compile(r"(?<!\w)-(?=[0-9])")
_VERDICTS = ("unreliable", "warn", "reliable")


@dataclass(frozen=True)
class Picture:
    """A figure on the page: file name, caption, description and SVG element."""

    name: str
    caption: str
    svg: Markup


def write_page(
    records: Sequence[Record],
    folder: Path,
    *,
    gradients: Sequence[dict[str, Any]] = (),
    options: str = "",
    campaign: str | None = None,
    command: str | None = None,
) -> list[Path]:
    """Writes ``report.html`` and, under ``figures``, each figure as SVG and PNG.

    The same records give the same bytes. The page is self-contained, and every text from the
    records is escaped.

    Args:
        records: Records of one data set, set of test images and attack.
        folder: Output folder; figures of an earlier report in it are removed.
        gradients: Results of ``robustnorm diagnose``, one per file.
        options: Options for the make commands on the page, such as " CONFIG=configs/digits.yaml".
        campaign: Command of the campaign that made the records, to be named instead.
        command: Command that makes the page; by default those that make the records, too.

    Returns:
        The files written, the page first.

    Raises:
        RecordError: When the records are not of one evaluation, or an image in them is damaged.
    """
    page, pictures = render_page(
        records, gradients=gradients, options=options, campaign=campaign, command=command
    )
    return write_files(page, pictures, folder)


def write_files(page: str, pictures: dict[str, bytes], folder: Path) -> list[Path]:
    """Writes a page and its figure files (content by name); removes those of an earlier report."""
    figures_folder = folder / "figures"
    files = {folder / "report.html": page.encode()} | {
        figures_folder / name: data for name, data in pictures.items()
    }
    for path, data in files.items():
        write_atomically(path, data)
        log.info("wrote %s", path)
    with disk_errors(figures_folder, 0):
        for old in {*figures_folder.glob("*.svg"), *figures_folder.glob("*.png")} - files.keys():
            old.unlink()
    return list(files)


def render_page(
    records: Sequence[Record],
    *,
    gradients: Sequence[dict[str, Any]] = (),
    options: str = "",
    campaign: str | None = None,
    command: str | None = None,
) -> tuple[str, dict[str, bytes]]:
    """Returns the page and its figure files (content by name); see ``write_page``."""
    train = train_in(campaign) if campaign else "make train NORM={norm}" + options
    made = tables(records, train_command=train)
    models = group(records)
    looks = drawing.looks(models)
    files: dict[str, bytes] = {}

    draw = partial(picture, files=files)
    names = ", ".join(model.name for model in models)
    first = models[0].records[0]
    deployment = next((table for table in made if table.name == "deployment"), None)
    radius = first.protocol["epsilon"]
    context = {
        "title": _distinct(record.name for record in records),
        "protocols": _distinct(record.protocol["name"] for record in records),
        "first": first,
        "attacks": attacks_text(first.protocol, "ε ="),
        "models": models,
        "colors": drawing.variables(),
        "swatches": _swatches(models, looks),
        "options": options,
        "campaign": campaign,
        "command": command,
        "summary": summary(models),
        "tables": {table.name: table for table in made},
        "deployment": deployment,
        "deployment_summary": deployment_summary(deployment, models) if deployment else None,
        "branched": any(len(model.records[0].branches) > 1 for model in models),
        "checks": _check_verdicts(models),
        "curve": draw(
            "accuracy-over-epsilon",
            "Accuracy under PGD as the attack's radius grows. Bands: 95 % Wilson intervals; "
            "dotted line: the radius of the tables"
            + (" for that branch." if first.protocol.get("branches") else f", {radius}."),
            f"Accuracy against the attack radius for {names}; falling curves, one panel per "
            "branch.",
            lambda: figures.accuracy_over_epsilon(models, looks),
        ),
        "passes": draw(
            "accuracy-over-passes",
            "Robust accuracy under each attack, through the adversarial branch or the only one, "
            "against its cost: forward and backward passes per test image. Attacks that stop on "
            "images that they have broken cost less on a weak network.",
            f"Robust accuracy against the passes of each attack for {names}.",
            lambda: accuracy_over_passes(models, looks),
        ),
        "test_losses": draw(
            "test-losses",
            "Losses on test images over the epochs, as in the paper's Figure 6. They are not used "
            "to select anything. Controls trained on clean images, whose adversarial loss is far "
            "higher, are omitted.",
            f"Clean and adversarial test loss over the epochs for {names}.",
            lambda: figures.test_losses(models, looks),
        ),
        "training": draw(
            "training",
            "Training losses, and accuracies on held-out training images, epoch by epoch.",
            f"Training losses and validation accuracies over the epochs for {names}.",
            lambda: figures.training_curves(models, looks),
        ),
        "classes": draw(
            "classes",
            _classes_caption(first),
            f"Standard and robust accuracy of each class for {names}.",
            lambda: figures.per_class(models, looks),
        ),
        "examples": example_grid(models),
        "gradients": [
            (
                content,
                gradient_table(content),
                draw(
                    f"gradients-{number}",
                    f"{content['title']}, from input to output. Bars: 95 % intervals.",
                    f"{content['title']}: spread of norms and mean cosine by stage.",
                    partial(figures.gradients, content, looks),
                ),
            )
            for number, content in enumerate(gradients, 1)
        ],
        "paired": paired_tests(models),
        "claims": claims_table(records),
        "provenance": provenance(models),
        "given": all(record.given for record in records),  # no command evaluates these
        "trained_here": any(record.is_ours for record in records),
        "lacking": lambda part: [
            model.name
            for model in models
            if not all(getattr(r, part) or _never_has(part, r) for r in model.records)
        ],
    }
    return environment().get_template("page.html").render(context).lstrip(), files


def picture(
    name: str,
    caption: str,
    alt: str,
    make: Callable[[], Figure | None],
    files: dict[str, bytes],
) -> Picture | None:
    """Draws a figure in the report's style and adds its files; None without a figure."""
    with drawing.style():
        figure = make()
    if figure is None:
        return None
    saved = drawing.save(figure)
    files |= {f"{name}.{suffix}": data for suffix, data in saved.items()}
    return Picture(name, caption, Markup(drawing.inline(saved["svg"], name, alt)))


def environment() -> Environment:
    """Returns the jinja environment with the package's templates."""
    environment = Environment(
        loader=PackageLoader("robustnorm", "reporting"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"layout": _typeset, "blocks": _blocks, "matrices": _matrices}
    return environment


def _never_has(part: str, record: Record) -> bool:
    return bool(record.given) or (part == "history" and not record.is_ours)


def _distinct(names: Iterable[str]) -> str:
    return ", ".join(dict.fromkeys(names))


def _swatches(models: Sequence[ModelRecords], looks: dict[str, drawing.Look]) -> dict[str, str]:
    """Returns the color variable for every text that names a model."""
    return {
        text: drawing.variable(looks[model.name].color)
        for model in models
        for text in (model.name, *(model.label(branch) for branch in model.records[0].branches))
    }


def _typeset(table: Table) -> tuple[list[list[str]], list[bool]]:
    """Returns ``layout`` with proper minus signs, and dashes for missing values."""
    cells, numeric = layout(table)
    return [
        [
            "–" if cell == "-" else _MINUS.sub("−", cell) if number else cell
            for cell, number in zip(row, numeric, strict=True)
        ]
        for row in cells
    ], numeric


def _blocks(rows: list[list[str]]) -> Iterator[list[list[str]]]:
    """Yields groups of consecutive rows with the same first cell."""
    block: list[list[str]] = []
    for row in rows:
        if block and row[0] != block[-1][0]:
            yield block
            block = []
        block.append(row)
    if block:
        yield block


def _matrices(table: Table) -> dict[str, dict[str, dict[str, tuple[float, str, str]]]]:
    """Returns the branch matrix as model -> attacked branch -> scoring branch -> cell.

    A cell holds the accuracy as a fraction, and the accuracy and its interval as text.
    """
    matrices: dict[str, dict[str, dict[str, tuple[float, str, str]]]] = {}
    for row, text in zip(table.rows, layout(table)[0], strict=True):
        model, attacked, scoring, accuracy, interval, _ = text
        fraction = row[3]
        assert isinstance(fraction, float)
        cells = matrices.setdefault(model, {}).setdefault(attacked, {})
        cells[scoring] = (fraction, accuracy, interval)
    return matrices


def _check_verdicts(models: Sequence[ModelRecords]) -> dict[str, Any] | None:
    """Returns the verdicts of all checks, for each model the worst over its seeds."""
    columns: dict[str, list[str]] = {}
    cells: dict[tuple[str, str, str], Check] = {}
    for model in models:
        for record in model.records:
            for check in record.checks:
                answers = columns.setdefault(model.name, [])
                if check.answer not in answers:
                    answers.append(check.answer)
                key = (check.name, model.name, check.answer)
                worst = cells.setdefault(key, check)
                if _VERDICTS.index(check.verdict) < _VERDICTS.index(worst.verdict):
                    cells[key] = check
    if not cells:
        return None
    names = list(dict.fromkeys(name for name, *_ in cells))
    overall = {
        (model, answer): verdict_of(
            (check for (_, name, _), check in cells.items() if name == model), answer
        )
        for model, answers in columns.items()
        for answer in answers
    }
    return {
        "overall": overall,
        "columns": columns,
        "names": names,
        "cells": cells,
        "explanations": CHECKS,
        "counts": {v: sum(c.verdict == v for c in cells.values()) for v in _VERDICTS},
    }


def _classes_caption(record: Record) -> str:
    count = len(set(record.labels))
    shown = (
        f" Shown are the {figures.MOST_CLASSES} of {count} classes with the lowest RA."
        if count > figures.MOST_CLASSES
        else ""
    )
    return (
        "Accuracy of each class through the adversarial branch, or the only one, with the most "
        f"robust class on top. Bars: 95 % Wilson intervals over the class's images.{shown}"
    )

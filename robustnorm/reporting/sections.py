"""A page of tables and figures under headings, in the style of ``report.html``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict, Unpack

from matplotlib.figure import Figure

from robustnorm.reporting import drawing
from robustnorm.reporting.page import environment, picture, write_files
from robustnorm.reporting.render import Table


@dataclass(frozen=True)
class Drawing:
    """A figure to draw.

    Args:
        name: Name of the figure's files.
        caption: Text below the figure.
        alt: Description for readers who cannot see it.
        draw: Draws the figure; called in the report's style.
    """

    name: str
    caption: str
    alt: str
    draw: Callable[[], Figure]


@dataclass(frozen=True)
class Section:
    """A section of the page: heading, figures, then tables."""

    title: str
    tables: Sequence[Table] = ()
    drawings: Sequence[Drawing] = ()


class Content(TypedDict):
    """The content of a page.

    Attributes:
        title: Title of the page.
        summary: Introductory sentences.
        facts: Values by name, listed below the summary.
        sections: The sections, in order.
        looks: Looks of the models by name; tables show the color beside the name.
        command: The command that makes the report.
    """

    title: str
    summary: str
    facts: dict[str, str]
    sections: Sequence[Section]
    looks: dict[str, drawing.Look]
    command: str


def write_sections(folder: Path, **content: Unpack[Content]) -> list[Path]:
    """Writes ``report.html`` and, under ``figures``, each figure as SVG and PNG.

    Args:
        folder: Output folder; figures of an earlier report in it are removed.
        **content: See ``Content``.

    Returns:
        The files written, the page first.
    """
    return write_files(*render_sections(**content), folder)


def render_sections(**content: Unpack[Content]) -> tuple[str, dict[str, bytes]]:
    """Returns the page and its figure files (content by name).

    The same content gives the same bytes. The page is self-contained, and all text is escaped. A
    note that several tables share appears only under the first. See ``Content`` for the arguments.
    """
    sections, looks = content["sections"], content["looks"]
    files: dict[str, bytes] = {}
    pictures = {
        section.title: [
            picture(each.name, each.caption, each.alt, each.draw, files)
            for each in section.drawings
        ]
        for section in sections
    }
    shown_before: dict[str, list[str]] = {}
    notes: list[str] = []
    for table in (table for section in sections for table in section.tables):
        shown_before[table.name] = list(notes)
        notes += table.notes
    page = (
        environment()
        .get_template("sections.html")
        .render(
            **content,
            pictures=pictures,
            shown_before=shown_before,
            colors=drawing.variables(),
            swatches={name: drawing.variable(look.color) for name, look in looks.items()},
        )
    )
    return page.lstrip(), files

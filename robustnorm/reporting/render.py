"""Tables as text, Markdown, LaTeX and CSV."""

from __future__ import annotations

import csv
import io
import itertools
import logging
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tabulate import tabulate

from robustnorm.evaluation.statistics import Interval
from robustnorm.system.escaping import for_csv, for_latex, for_markdown, for_terminal
from robustnorm.system.files import disk_errors, write_atomically

log = logging.getLogger("robustnorm")

Cell = str | float | Interval | None


@dataclass(frozen=True)
class Table:
    """A table ready to print.

    Args:
        name: Name of its files.
        title: Text above the table.
        columns: Column headings.
        rows: Cells: text, a fraction (printed in percent), an interval of fractions, or None.
        notes: Remarks below the table.
    """

    name: str
    title: str
    columns: tuple[str, ...]
    rows: list[tuple[Cell, ...]]
    notes: list[str]


def to_text(tables: Sequence[Table]) -> str:
    """Returns tables for a terminal; a note that several tables share appears only once."""
    lines: list[str] = []
    shown: set[str] = set()
    for table in tables:
        lines += [for_terminal(table.title), "", _grid(table, "simple", for_terminal), ""]
        for note in table.notes:
            if note not in shown:
                lines.append(textwrap.fill(for_terminal(note), 100, subsequent_indent="  "))
        lines.append("")
        shown |= set(table.notes)
    return "\n".join(lines)


def to_markdown(table: Table) -> str:
    """Returns the table as Markdown."""
    notes = "\n".join(f"- {for_markdown(note)}" for note in table.notes)
    grid = _grid(table, "pipe", for_markdown)
    return f"## {for_markdown(table.title)}\n\n{grid}\n\n{notes}\n"


def to_latex(table: Table) -> str:
    """Returns the table as LaTeX; it needs the package booktabs."""
    notes = " ".join(for_latex(note) for note in table.notes)
    return (
        f"\\begin{{table}}\n\\caption{{{for_latex(table.title)}}}\n\\centering\n"
        f"{_grid(table, 'latex_booktabs', for_terminal)}\n\n"
        f"\\footnotesize {notes}\n\\end{{table}}\n"
    )


def to_csv(table: Table) -> str:
    """Returns the table as CSV, with numbers in percent and each interval in two columns."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    is_interval = [
        any(isinstance(row[i], Interval) for row in table.rows) for i in range(len(table.columns))
    ]
    header = [
        [f"{name}, low", f"{name}, high"] if wide else [name]
        for name, wide in zip(table.columns, is_interval, strict=True)
    ]
    writer.writerow(itertools.chain(*header))
    for row in table.rows:
        cells: list[str] = []
        for cell, wide in zip(row, is_interval, strict=True):
            if isinstance(cell, Interval):
                cells += [_percent(cell.low), _percent(cell.high)]
            else:
                cells += [for_csv(_text(cell, ""))] + [""] * wide
        writer.writerow(cells)
    return file.getvalue()


def save_tables(
    tables: Sequence[Table], folder: Path, name: str, *, optional: Sequence[str] = ()
) -> list[Path]:
    """Writes name.md, name.tex and a CSV file per table; returns their paths.

    Args:
        tables: The tables.
        folder: Folder of the files.
        name: Name of the files that hold all tables.
        optional: Names of tables that the caller makes only of some results; if they are not among
            ``tables``, their CSV files are removed, which show other results.
    """
    contents = {
        f"{name}.md": "\n".join(map(to_markdown, tables)),
        f"{name}.tex": "\n".join(map(to_latex, tables)),
    } | {f"{table.name}.csv": to_csv(table) for table in tables}
    for path in (folder / f"{each}.csv" for each in optional):
        if path.name not in contents and path.exists():
            with disk_errors(path, 0):
                path.unlink()
    for file, text in contents.items():
        write_atomically(folder / file, text.encode())
        log.info("wrote %s", folder / file)
    return [folder / file for file in contents]


def layout(table: Table) -> tuple[list[list[str]], list[bool]]:
    """Returns the cells as text, "-" for None, and which columns hold numbers."""
    text = [[_text(cell, "-") for cell in row] for row in table.rows]
    right = [
        all(row[column][:1] in "+-<[0123456789" for row in text)
        for column in range(len(table.columns))  # also of a table without rows
    ]
    return text, right


def bracketed(
    limits: tuple[float, float] | None, digits: int = 2, *, scale: float = 1, signed: bool = False
) -> str | None:
    """Returns an interval as tables print it.

    Examples:
        >>> bracketed((0.5, 1), 1, scale=100), bracketed((-1, 1), signed=True)
        ('[50.0, 100.0]', '[-1.00, +1.00]')
        >>> bracketed((-0.001, 1))  # not -0.00
        '[0.00, 1.00]'
    """
    if limits is None:
        return None
    low, high = (f"{scale * limit:{'+' * signed}z.{digits}f}" for limit in limits)
    return f"[{low}, {high}]"


def p_value(p: float | None) -> str | None:
    """Returns a p-value as tables print it.

    Examples:
        >>> p_value(0.0123), p_value(1e-9)
        ('0.012', '< 0.001')
    """
    return None if p is None else f"{p:.3f}" if p >= 0.001 else "< 0.001"


def p_text(p: float) -> str:
    """Returns a p-value as sentences print it.

    Examples:
        >>> p_text(0.0123), p_text(1e-9)
        ('p = 0.012', 'p < 0.001')
    """
    value = str(p_value(p))
    return f"p {value}" if value.startswith("<") else f"p = {value}"


def _grid(table: Table, style: str, escape: Callable[[str], str]) -> str:
    text, right = layout(table)
    return tabulate(
        [[escape(cell) for cell in row] for row in text],
        headers=[escape(column) for column in table.columns],
        tablefmt=style,
        disable_numparse=True,
        colalign=["right" if numbers else "left" for numbers in right],
    )


def _text(cell: Cell, empty: str) -> str:
    if cell is None:
        return empty
    if isinstance(cell, Interval):
        return f"[{_percent(cell.low)}, {_percent(cell.high)}]"
    return cell if isinstance(cell, str) else _percent(cell)


def _percent(fraction: float) -> str:
    return f"{100 * fraction:.2f}"

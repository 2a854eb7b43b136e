"""Writes tables, figures and the page from the records in a report's folder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from robustnorm.applications.style import figures
from robustnorm.applications.style.results import Row, read_records
from robustnorm.applications.style.tables import summary, tables
from robustnorm.reporting.render import Table, save_tables, to_markdown
from robustnorm.reporting.sections import Section, write_sections
from robustnorm.system.escaping import for_markdown
from robustnorm.system.files import write_atomically

TITLE = "Style transfer: Figures 7 and 8"


def write_report(
    folder: Path, painted: Sequence[figures.Painted], *, seed: int, command: str
) -> list[Table]:
    """Writes tables.md, tables.tex, a CSV file per table, the figures and report.html.

    Args:
        folder: Folder that contains the ``records``; everything is written into it.
        painted: The pictures of Figure 8; empty for a report without it.
        seed: Seed of the networks that painted the pictures.
        command: The command that makes the report.

    Returns:
        The tables.

    Raises:
        UsageError, RefusedFileError: When the records are missing, unusable or do not match.
    """
    rows = read_records(folder / "records")
    made, text = tables(rows), summary(rows)
    save_tables(made, folder, "tables", optional=("measured", "claims", "paired"))
    write_atomically(folder / "tables.md", markdown(text, made, command).encode())

    def named(*names: str) -> list[Table]:
        return [table for table in made if table.name in names]

    drawings = [figures.training(rows), figures.validation(rows)]
    eight = [figures.grid(rows, painted, seed)] if painted else []
    write_sections(
        folder,
        title=TITLE,
        summary=text,
        facts=_facts(rows),
        sections=[
            section
            for section in (
                Section("Losses", named("figure7"), drawings),
                Section("What the content loss measures", named("measured", "claims")),
                Section("Pictures", (), eight),
                Section("Paired tests", named("paired")),
                Section("Runs", [_runs(rows)]),
            )
            if section.tables or section.drawings
        ],
        looks=figures.LOOKS,
        command=command,
    )
    return made


def markdown(text: str, made: Sequence[Table], command: str) -> str:
    """Returns the summary, the tables and the command that made them as Markdown."""
    parts = [f"# {TITLE}\n", f"{for_markdown(text)}\n", *map(to_markdown, made)]
    end = "the figures are in `figures/`, one page is `report.html`"
    return "\n".join([*parts, f"Made by `{for_markdown(command)}`; {end}.\n"])


def _facts(rows: Sequence[Row]) -> dict[str, str]:
    record = rows[0].records[0]
    dataset, encoder = record["dataset"], record["encoder"]
    return {
        "Content": dataset["content"]["name"],
        "Style": dataset["style"]["name"],
        "Encoder": f"{encoder['name']} up to {encoder['layer']}",
        "Steps": f"{record['step']:,}",
        "Runs": str(sum(len(row.records) for row in rows)),
    }


def _runs(rows: Sequence[Row]) -> Table:
    return Table(
        "runs",
        "Provenance",
        ("Norm", "Seed", "Steps", "Seconds", "Encoder's sha256", "Content's sha256", "Device"),
        [
            (
                row.name,
                str(record["seed"]),
                f"{record['step']:,}",
                f"{record['seconds']:.0f}",
                record["encoder"]["sha256"][:12],
                record["dataset"]["content"]["sha256"][:12],
                record["device"],
            )
            for row in rows
            for record in row.records
        ],
        ["Seconds: wall-clock time, with other work on the machine."],
    )

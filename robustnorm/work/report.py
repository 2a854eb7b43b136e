"""Writes an HTML report from result records."""

from __future__ import annotations

import shlex
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from robustnorm.records.record import Record
from robustnorm.reporting.gradients import read_gradients
from robustnorm.runs import Run
from robustnorm.settings.results import ReportSettings
from robustnorm.system.errors import UsageError
from robustnorm.system.extras import extra


def report(
    config: ReportSettings, config_path: str | None = None, *, campaign: str | None = None
) -> None:
    """Writes ``report.html``, and its figures as files, into the config's folder of reports.

    Args:
        config: Where to read and write. ``config.records`` names records or folders of records; by
            default those that the config's evaluation wrote.
        config_path: Path of the config file, for the commands that the page names.
        campaign: The command that the page names instead, if a campaign made the records.

    Raises:
        UsageError: When there are no records.
        RecordError: When a record is damaged, or the records are not of one evaluation.
        ImportError: When the packages of the extra "report" are not installed.
    """
    with extra("report", "a report needs matplotlib and jinja2"):
        from robustnorm.reporting.page import write_page
    folder = Path(config.reports) / str(config.name)
    paths = record_files([Path(path) for path in config.records] or [folder])
    records = [Record.load(path) for path in paths]
    # Records lie in reports/<name>/records, diagnostics beside them in reports/<name>/gradients.
    folders = dict.fromkeys([folder, *(path.parent.parent for path in paths)])
    diagnostics = _diagnostics(folders)
    if campaign:  # those of all its evaluations lie together, each of certain networks
        known = {record.checkpoint["sha256"] for record in records}
        diagnostics += [
            found
            for found in _diagnostics([folder.parent])
            if (runs := found.get("checkpoints"))
            and known.issuperset(run["sha256"] for run in runs.values())
        ]
    write_page(
        records,
        folder,
        gradients=diagnostics,
        options=f" CONFIG={shlex.quote(config_path)}" if config_path else "",
        campaign=campaign,
        command=_command(config) if config.records and not campaign else None,
    )


def _diagnostics(folders: Iterable[Path]) -> list[dict[str, Any]]:
    """Returns the results of ``robustnorm diagnose`` in the folders."""
    return [
        read_gradients(path) for each in folders for path in sorted(each.glob("gradients/*.json"))
    ]


def _command(config: ReportSettings) -> str:
    """Returns the command that makes the page of the records that were named."""
    words = ["robustnorm", "report", *config.records, "--name", str(config.name)]
    return shlex.join([*words, *["--reports", config.reports] * (config.reports != "reports")])


def records_of(run: Run, reports: Path) -> list[Path]:
    """Returns the result records of a run's checkpoint that its config or its campaign wrote."""
    folder, file = reports / str(run.config.name), f"{run.name}-{run.tag}.json"
    record = folder / "records" / file
    others = sorted(folder.glob(f"*/records/{file}"))  # of a campaign's evaluations
    return [
        path
        for path in ([record] if record.is_file() else others)
        if Record.load(path).checkpoint["sha256"] == run.sha256
    ]


def record_files(given: list[Path]) -> list[Path]:
    """Returns the record files that are among the paths or in the folders they name, each once."""
    found: dict[Path, Path] = {}
    for path in given:
        inside = path / "records" if (path / "records").is_dir() else path
        files = sorted(inside.glob("*.json")) if inside.is_dir() else [path]
        if not files or not files[0].is_file():
            known = {str(file.parent.parent) for file in path.glob("*/records/*.json")}
            hint = (
                f"name one of {', '.join(sorted(known))}" if known else "run robustnorm eval first"
            )
            raise UsageError(f"there are no result records in {path}; {hint}")
        found |= {file.resolve(): file for file in files}
    return list(found.values())

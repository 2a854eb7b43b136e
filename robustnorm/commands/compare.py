"""Puts evaluated networks side by side, whether our runs or networks from elsewhere."""

from __future__ import annotations

import shlex
from pathlib import Path

from robustnorm.records.record import Record
from robustnorm.reporting.render import save_tables, to_text
from robustnorm.reporting.side_by_side import (
    accuracy_table,
    check_table,
    name_models,
    significance,
)
from robustnorm.runs import Run
from robustnorm.settings.results import CompareSettings
from robustnorm.system.errors import UsageError
from robustnorm.system.extras import extra
from robustnorm.work.report import record_files, records_of


def compare_runs(settings: CompareSettings) -> str:
    """Writes one table and one page about evaluated networks; returns the tables as text.

    Each record is a model of its own; all are tested against each other on the same images.

    Args:
        settings: What to compare, and where to write.

    Raises:
        UsageError: When a run has not been evaluated, or there are no records.
        RecordError: When a record is damaged, or images or attacks differ between records.
        ImportError: When the packages of the extra "report" are not installed.
    """
    with extra("report", "a comparison needs matplotlib and jinja2"):
        from robustnorm.reporting.comparison_page import comparison_page
        from robustnorm.reporting.page import write_files
    paths = record_files([_record_path(Path(each), settings) for each in settings.evaluated])
    models = name_models([Record.load(path) for path in paths], [str(path) for path in paths])
    tables = [accuracy_table(models)]
    if (tests := significance(models)).rows:
        tables.append(tests)
    tables.append(check_table(models))
    folder = Path(settings.reports) / str(settings.name)
    page = comparison_page(
        models,
        title=f"{settings.name}: networks side by side",
        command=_command(settings),
    )
    made_before = ("comparison", "accuracy", "paired-tests")  # of several networks, or of one
    save_tables(tables, folder, "comparison", optional=made_before)
    write_files(*page, folder)
    return to_text(tables)


def _command(settings: CompareSettings) -> str:
    words = ["robustnorm", "compare", *settings.evaluated]
    defaults = {"checkpoint": "best", "name": CompareSettings.unnamed, "reports": "reports"}
    for name, default in defaults.items():
        chosen = getattr(settings, name)
        words += [f"--{name}", chosen] * (chosen != default)
    return shlex.join(words)


def _record_path(given: Path, settings: CompareSettings) -> Path:
    """Returns the path of a run's record, given its folder; returns any other path unchanged.

    Raises:
        UsageError: When the checkpoint has not been evaluated.
    """
    run = Run.find(given, settings.checkpoint) if given.is_dir() else None
    if run is None:
        return given
    name, found = str(run.config.name), records_of(run, Path(settings.reports))
    record = Path(settings.reports) / name / "records" / f"{run.name}-{run.tag}.json"
    checkpoint = f"the checkpoint '{settings.checkpoint}' of {given}"
    if not found:
        raise UsageError(
            f"{checkpoint} has no result record {record}: evaluate it first, with robustnorm eval "
            f"--name {name} and the settings of its training, or name the record's file"
        )
    if len(found) > 1:
        raise UsageError(
            f"{checkpoint} has several result records: name one of {', '.join(map(str, found))}"
        )
    return found[0]

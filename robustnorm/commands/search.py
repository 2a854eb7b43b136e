"""Searches for a cell in NAS-Bench-201 with one norm, or with all norms for Table 2."""

from __future__ import annotations

import shlex
from pathlib import Path

from robustnorm.applications.nas.darts import run_search
from robustnorm.applications.nas.table2 import tables
from robustnorm.applications.nas.work import search_all, write_report
from robustnorm.data import check_data
from robustnorm.reporting.render import to_text
from robustnorm.settings.nas import SearchSettings, Table2Settings
from robustnorm.system.extras import check_report
from robustnorm.system.stopping import ShouldStop, never


def search_cell(settings: SearchSettings, *, should_stop: ShouldStop = never) -> str:
    """Runs one search, or continues it; returns the result as text.

    Args:
        settings: The settings.
        should_stop: Called between two steps.

    Raises:
        UsageError, DataError, CheckpointError, Stopped: As ``run_search``.
    """
    check_data(settings.data)
    record = run_search(settings, should_stop=should_stop)
    *_, found = tables([record])
    return to_text([found])


def table2(
    settings: Table2Settings, config_path: str | None = None, *, should_stop: ShouldStop = never
) -> str:
    """Runs the missing searches, writes Table 2 and its page; returns the tables as text.

    Args:
        settings: The settings.
        config_path: Path of the config file, for the command on the page.
        should_stop: Called between searches, and between steps of a search in this process.

    Raises:
        ImportError, SweepError, Stopped: As ``search_all``.
    """
    check_data(settings.data)
    check_report()
    records = search_all(settings, should_stop=should_stop)
    config = f" --config {shlex.quote(config_path)}" if config_path else ""
    seeds = ",".join(map(str, settings.seeds))
    return write_report(
        records,
        Path(settings.reports) / str(settings.name),
        f"robustnorm table2{config} --data {shlex.quote(Path(settings.data).name)} --seeds {seeds}",
    )

"""Runs the searches of Table 2 as jobs, and writes its report from their records."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tqdm.contrib.logging import logging_redirect_tqdm

from robustnorm.applications.nas.comparison import group_by_norm
from robustnorm.applications.nas.darts import check_same_data, run_search
from robustnorm.applications.nas.record import SearchRecord, find_record
from robustnorm.applications.nas.table2 import summary, tables
from robustnorm.reporting.render import Table, save_tables, to_text
from robustnorm.settings.nas import SearchSettings, Table2Settings
from robustnorm.system.extras import check_report
from robustnorm.system.stopping import ShouldStop, never
from robustnorm.work.engines import check_engine, open_engine
from robustnorm.work.sweep import SweepError, do_jobs, failure_text, job_bar

log = logging.getLogger("robustnorm")


@dataclass(frozen=True)
class SearchJob:
    """Runs a search, or continues it."""

    settings: SearchSettings

    @property
    def name(self) -> str:
        return f"search {self.settings.name} {self.settings.run}"

    def done(self) -> bool:
        return find_record(self.settings) is not None

    def run(self, should_stop: ShouldStop = never) -> None:
        run_search(self.settings, should_stop=should_stop)


def search_all(settings: Table2Settings, *, should_stop: ShouldStop = never) -> list[SearchRecord]:
    """Runs the unfinished searches, all norms of a seed before the next seed; returns all records.

    Args:
        settings: The searches, with a name, and the engine that runs them.
        should_stop: Called between searches, and between steps of a search in this process.

    Raises:
        ImportError: When the package of the engine is not installed.
        UsageError: When a record has other settings or data.
        SweepError: When searches failed, after all others are finished; names each with its error.
        Stopped: When ``should_stop`` asks for it; the next call continues.
    """
    check_engine(settings)
    jobs = [SearchJob(search) for search in settings.searches()]
    # A record that is damaged, or of other data, is told before any search.
    before = {job: find_record(job.settings) for job in jobs}
    waiting = [job for job, record in before.items() if record is None]
    records = [record for record in before.values() if record is not None]
    check_same_data(records, settings, again=bool(waiting))
    with open_engine(settings) as engine, logging_redirect_tqdm([log]), job_bar() as bar:
        failures = do_jobs(waiting, engine, should_stop, bar)
    if failures:
        raise SweepError(failure_text(failures))
    found = [find_record(job.settings) for job in jobs]
    return [record for record in found if record is not None]


def write_report(records: Sequence[SearchRecord], folder: Path, command: str) -> str:
    """Writes tables, figure and page of searches; returns summary and tables as text.

    Args:
        records: Records that differ only in norm and seed.
        folder: Output folder.
        command: The command shown on the page.

    Raises:
        UsageError: When the records differ in more.
        ImportError: When the packages of the extra "report" are not installed.
    """
    check_report()
    from robustnorm.applications.nas.figure import LOOKS, curves
    from robustnorm.reporting.sections import Section, write_sections

    made, searched = tables(records), group_by_norm(records)
    text = summary(searched)
    first = records[0]
    save_tables(made, folder, "tables", optional=("paired",))

    def named(name: str) -> list[Table]:
        return [table for table in made if table.name == name]

    tests = named("paired")
    write_sections(
        folder,
        title="Table 2: DARTS on NAS-Bench-201",
        summary=text,
        facts={
            "Data": first.dataset["name"],
            "Searches": str(len(records)),
            "Steps": f"{first.search.stop_step:,}",
            "Ground truth": "NAS-Bench-201, 200 epochs",
        },
        sections=[
            Section("Table 2", tables=named("table2")),
            Section("All cells under alpha", tables=named("expected")),
            Section("The course of the searches", drawings=[curves(searched)]),
            *[Section("Paired tests", tables=tests)] * bool(tests),
            Section("Every search", tables=named("searches")),
        ],
        looks=LOOKS,
        command=command,
    )
    return f"{text}\n\n{to_text(made)}"

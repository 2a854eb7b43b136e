"""Evaluates trained runs; prints and writes the tables."""

from __future__ import annotations

import logging
import shlex
from collections.abc import Sequence
from pathlib import Path

from robustnorm.data.dataset import Dataset
from robustnorm.records.record import Record
from robustnorm.reporting.render import to_text
from robustnorm.reporting.tables import tables, write_tables
from robustnorm.runs import Run
from robustnorm.runs.described import load_data
from robustnorm.runs.run import find_runs, setting_differences
from robustnorm.settings.config import Config
from robustnorm.system.device import resolve_device
from robustnorm.system.errors import Unreliable, UsageError
from robustnorm.system.stopping import ShouldStop, never
from robustnorm.work.evaluate_run import evaluate_run
from robustnorm.work.transfers import score_transfers

log = logging.getLogger("robustnorm")


def evaluate_runs(
    config: Config,
    config_path: str | None = None,
    *,
    should_stop: ShouldStop = never,
    dataset: Dataset | None = None,
) -> str:
    """Evaluates every checkpoint that fits ``config``, writes reports, returns the tables as text.

    Checkpoints that were already evaluated under the same protocol are not evaluated again.

    Args:
        config: The settings; norm and seed are ignored.
        config_path: Path of the config file, for the command that trains a missing norm.
        should_stop: Called before each part of the work.
        dataset: The data that ``config`` names, if they are loaded already.

    Raises:
        UsageError: When no checkpoint fits, or one was trained on other data.
        Unreliable: When a check finds an evaluation unreliable and ``config.strict`` is set.
        Stopped: When ``should_stop`` asks for it; the next call continues.
    """
    command = train_command(config_path)
    records = evaluate_records(config, command, should_stop=should_stop, dataset=dataset)
    return require_reliable(report_tables(records, config, command), records, config)


def require_reliable(text: str, records: list[Record], config: Config) -> str:
    """Returns the text; raises ``Unreliable`` if ``config.strict`` is set and a check failed."""
    if config.strict and any(
        check.verdict == "unreliable" for record in records for check in record.checks
    ):
        raise Unreliable(text)
    return text


def report_tables(records: list[Record], config: Config, command: str) -> str:
    """Writes the tables of ``records`` into the config's report folder; returns them as text."""
    write_tables(records, config.reports_folder, train_command=command)
    return to_text(tables(records, train_command=command))


def evaluate_records(
    config: Config,
    command: str | None = None,
    *,
    should_stop: ShouldStop = never,
    dataset: Dataset | None = None,
) -> list[Record]:
    """Evaluates every checkpoint that fits ``config``; see ``evaluate_runs``.

    Args:
        config: The settings; norm and seed are ignored.
        command: Command that trains a missing norm, as for ``tables``.
        should_stop: Called before each part of the work.
        dataset: The data that ``config`` names, if they are loaded already.

    Returns:
        One record per checkpoint, sorted by the names of the runs' folders.
    """
    runs = fitting_runs(config)
    if not runs:
        raise UsageError(
            f"no checkpoint '{config.checkpoint}' fits this config under "
            f"{config.folder.parent}; train one first: "
            f"{(command or train_command()).replace('{norm}', 'saauxbn')}"
        )
    device = resolve_device(config.device)
    dataset = dataset or load_data(config)
    for run in runs:
        run.check_data(dataset)
    reports = config.reports_folder
    records = [evaluate_run(run, config, dataset, device, reports, should_stop) for run in runs]
    if config.transfer:
        evaluated = dict(zip(runs, records, strict=True))
        records = score_transfers(evaluated, config, dataset, device, reports, should_stop)
    return records


def fitting_runs(config: Config, folders: Sequence[Path] | None = None) -> list[Run]:
    """Returns those of ``find_runs`` that ``config`` evaluates; warns about those it leaves out."""
    fitting = []
    for run in find_runs(config, folders):
        difference = setting_differences(config, run)
        if difference:
            log.warning("%s is left out because its settings differ: %s", run.folder, difference)
        else:
            fitting.append(run)
    return fitting


def train_command(config_path: str | None = None) -> str:
    """Returns the command that trains a norm, with a placeholder ``{norm}``."""
    return "make train NORM={norm}" + (f" CONFIG={shlex.quote(config_path)}" if config_path else "")

"""Trains and evaluates norms x seeds x configs as jobs, on this machine or on many."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import closing, suppress
from dataclasses import replace
from typing import Any

from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from robustnorm.evaluation.checks import check_installed
from robustnorm.evaluation.probe import check_attacks
from robustnorm.evaluation.protocol import find_record
from robustnorm.records.digests import digest_of_verdicts
from robustnorm.records.record import Record
from robustnorm.runs.described import load_data
from robustnorm.runs.run import run_folders
from robustnorm.settings.attack_names import parse_attacks
from robustnorm.settings.base import names
from robustnorm.settings.groups import Compared
from robustnorm.settings.plan import Plan
from robustnorm.settings.sweep import SweepSettings, sweep_plans
from robustnorm.system.errors import Status, UserError
from robustnorm.system.stopping import ShouldStop, Stopped, never
from robustnorm.work.attempt import is_done, reason_of
from robustnorm.work.engines import Engine, EngineSettings, check_engine, open_engine
from robustnorm.work.evaluate import (
    evaluate_records,
    fitting_runs,
    report_tables,
    require_reliable,
)
from robustnorm.work.jobs import Job, RecordJob, TrainJob, record_job

log = logging.getLogger("robustnorm")

# The reason for each job's failure.
Failures = dict[Job, str]


class SweepError(UserError):
    """Jobs of a sweep failed; all others are done."""

    status = Status.CHECK_FAILED

    def __str__(self) -> str:
        return ValueError.__str__(self)  # a line for each job


def sweep(settings: SweepSettings, *, should_stop: ShouldStop = never) -> str:
    """Trains and evaluates everything that is missing; returns the tables as text.

    Records and tables are those of ``evaluate_runs``, which then has nothing left to do.

    Args:
        settings: The runs, and the engine.
        should_stop: Called between jobs, and during a job in this process.

    Raises:
        ImportError: When the package of the engine, of an attack or of a check is not installed.
        SweepError: When jobs failed, after all others are done; names each with its error.
        Stopped: When ``should_stop`` asks for it; the next call continues.
        Unreliable: When a check finds an evaluation unreliable and its config is strict.
        UsageError, DataError: Before any work, when the engine or the data cannot be used.
    """
    check_engine(settings)
    plans = sweep_plans(settings)
    for plan in plans:
        evaluation = plan.evaluations[""]
        check_attacks(parse_attacks(evaluation.attacks))
        if evaluation.checks != "none":
            check_installed(evaluation.checks)
        load_data(evaluation)
    failures = do_plans(plans, settings, should_stop)
    if failures:
        for plan in plans:
            _report_found(plan, settings.train_command(plan.name))
        raise SweepError(failure_text(failures))
    texts, evaluated = [], []
    for plan in plans:
        evaluation, command = plan.evaluations[""], settings.train_command(plan.name)
        found = evaluate_records(evaluation, command, should_stop=should_stop)
        for record in found:
            compared = {name: getattr(record, name) for name in names(Compared)}
            folder = replace(evaluation, **compared).folder
            log.info("%s: verdicts %s", folder, digest_of_verdicts(record))
        texts.append(report_tables(found, evaluation, command))
        evaluated.append(found)
    text = "\n\n".join(texts)
    for plan, found in zip(plans, evaluated, strict=True):
        require_reliable(text, found, plan.evaluations[""])
    return text


def do_plans(plans: Sequence[Plan], settings: EngineSettings, should_stop: ShouldStop) -> Failures:
    """Trains and evaluates, as jobs, what plans of one evaluation each lack; returns the failures.

    Raises:
        Stopped: When ``should_stop`` asks for it.
    """
    failures: Failures = {}
    with open_engine(settings) as engine, logging_redirect_tqdm([log]), job_bar() as bar:

        def do(step: str, jobs: Sequence[Job]) -> None:
            try:
                failures.update(do_jobs(jobs, engine, should_stop, bar))
            except Stopped as stop:
                raise Stopped(f"step {step}: {stop}") from stop

        do("1 of 3, training", [TrainJob(run) for plan in plans for run in plan.all_runs()])
        records = [job for plan in plans for job in _record_jobs(plan, failures)]
        do("2 of 3, attacks", [attack for record in records for attack in record.attacks])
        attacked = [record for record in records if not failures.keys() & set(record.attacks)]
        do("3 of 3, records", attacked)
    return failures


def job_bar() -> tqdm[Any]:
    """Returns a progress bar for ``do_jobs``."""
    return tqdm(total=0, unit="job", desc="sweep", disable=None)


def do_jobs(
    jobs: Sequence[Job], engine: Engine, should_stop: ShouldStop, bar: tqdm[Any]
) -> Failures:
    """Runs the jobs that are not done yet; returns the failures.

    Raises:
        Stopped: When ``should_stop`` asks for it.
    """
    failures: Failures = {}
    waiting = [job for job in jobs if not is_done(job)]
    bar.total = (bar.total or 0) + len(waiting)
    bar.refresh()
    with closing(engine(waiting, should_stop)) as results:  # closed even when interrupted
        for job, failure in results:
            bar.update()
            if failure is not None:
                failures[job] = failure
                log.error("failed: %s", job.name)
    return failures


def _record_jobs(plan: Plan, failures: Failures) -> list[RecordJob]:
    """Returns the jobs for all trained runs that the plan evaluates and that have no record yet.

    A run that cannot be opened is added to the failures.
    """
    evaluation, jobs = plan.evaluations[""], list[RecordJob]()
    untrained = {job.config.folder for job in failures if isinstance(job, TrainJob)}
    for folder in run_folders(evaluation):
        try:
            runs = [] if folder in untrained else fitting_runs(evaluation, [folder])
            made = [record_job(run, evaluation) for run in runs]
            jobs += [job for job in made if not job.done()]
        except Exception as error:
            failed = RecordJob(folder, evaluation, ())
            failures[failed] = reason_of(error)
            log.error("failed: %s", failed.name)
    return jobs


def _report_found(plan: Plan, command: str) -> None:
    """Writes the tables of existing records."""
    config, records = plan.evaluations[""], list[Record]()
    dataset, reports = load_data(config), config.reports_folder
    for folder in run_folders(config):
        with suppress(Exception):  # it is among the failures
            found = [
                find_record(run, config, dataset, reports) for run in fitting_runs(config, [folder])
            ]
            records += [record for record in found if record is not None]
    if records:
        report_tables(records, config, command)


def failure_text(failures: Failures) -> str:
    """Returns each error once, with the names of the jobs that failed with it."""
    jobs: dict[str, list[str]] = {}
    for job, reason in failures.items():
        jobs.setdefault(reason, []).append(job.name)
    lines = [
        "\n".join([*(f"- {name}" for name in names), reason]) for reason, names in jobs.items()
    ]
    return (
        f"{len(failures)} job{'s' * (len(failures) > 1)} failed; the others are done, and the same "
        "command tries again what failed:\n" + "\n".join(lines)
    )

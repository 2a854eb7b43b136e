"""Works on a campaign for as long as it may; what is done follows from the folders alone."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import torch

from robustnorm.data.dataset import Dataset
from robustnorm.evaluation.protocol import find_record
from robustnorm.records.record import Record
from robustnorm.reporting.plans import plan_page
from robustnorm.reporting.readme import show_results
from robustnorm.reporting.tables import write_tables
from robustnorm.runs import Run
from robustnorm.runs.run import (
    device_name,
    is_trained,
    load_data,
    resolve_device,
    run_folder,
)
from robustnorm.settings.campaign import CampaignSettings, ReadyPlan, ready_plans
from robustnorm.settings.config import Config
from robustnorm.settings.results import ReportSettings
from robustnorm.system.files import write_atomically
from robustnorm.system.stopping import Budget, ShouldStop, Stopped, either, interrupted, never
from robustnorm.work.evaluate import evaluate_run
from robustnorm.work.remaining import remaining
from robustnorm.work.report import report
from robustnorm.work.train import train_run

log = logging.getLogger("robustnorm")


def run_campaign(
    campaign: CampaignSettings, config_path: str | None = None, *, should_stop: ShouldStop = never
) -> str:
    """Trains and evaluates until all is done or the budget is spent; says what is left.

    Plans are worked on in order, and so are the seeds of a plan: all norms are trained under a seed
    and evaluated before the next seed begins. Reports are written from whatever is evaluated.

    Args:
        campaign: The settings.
        config_path: Of the campaign's file, for the command that goes on.
        should_stop: Beside the budget; a signal that it tells of also leaves out the reports.

    Raises:
        UsageError: When a folder holds a run of other settings or data, or a loss diverges.
        DataError, CheckpointError, RecordError: As data, checkpoints and records tell.
        Stopped: When a signal came.
    """
    if campaign.budget is not None:
        should_stop = either(should_stop, Budget(campaign.budget))
    plans, device = ready_plans(campaign), resolve_device(campaign.device)
    datasets: dict[str, Dataset] = {}
    for plan in plans:
        if plan.data not in datasets:
            datasets[plan.data] = load_data(plan.runs[0])
    try:
        for plan in plans:
            _work(plan, datasets[plan.data], device, should_stop)
    except Stopped as stop:
        if interrupted(should_stop):
            raise
        log.info("the time is over: %s", stop)
    command = f"robustnorm campaign --config {config_path}"
    evaluated = {
        plan.name: {
            title: _write_tables(plan, title, datasets[plan.data], command)
            for title in plan.evaluations
        }
        for plan in plans
    }
    for plan in plans:
        _write_page(plan, evaluated[plan.name])
        _write_pages(plan, evaluated[plan.name])
    if campaign.readme is not None:
        _show_best(Path(campaign.readme), plans, evaluated)
    return remaining(plans, evaluated, device_name(device), command)


def _work(plan: ReadyPlan, dataset: Dataset, device: torch.device, should_stop: ShouldStop) -> None:
    """Does what is left of a plan; raises Stopped when the time is over before that."""
    for seed in plan.seeds:
        runs = plan.of_seed(seed)
        for run in runs:
            if not is_trained(run, dataset) and not should_stop(0.0):
                train_run(run, should_stop=should_stop)
            if not is_trained(run, dataset):
                raise Stopped(f"{plan.name}, {run.run} is not trained to its end")
        for title, evaluation in plan.evaluations.items():
            for run in runs:
                trained, reports = _open(run, evaluation), plan.reports(title)
                if find_record(trained, evaluation, dataset, reports) is None:
                    evaluate_run(trained, evaluation, dataset, device, reports, should_stop)


def _open(run: Config, evaluation: Config) -> Run:
    return Run.open(run_folder(run), evaluation.checkpoint)


def _write_tables(plan: ReadyPlan, title: str, dataset: Dataset, command: str) -> list[Record]:
    """Writes the tables of what is evaluated of a plan; returns its records."""
    folder, evaluation = plan.reports(title), plan.evaluations[title]
    found = [
        find_record(_open(run, evaluation), evaluation, dataset, folder)
        for run in plan.all_runs()
        if is_trained(run, dataset)
    ]
    records = [record for record in found if record is not None]
    if records:
        write_tables(records, folder, train_command=command)
    return records


def _write_page(plan: ReadyPlan, evaluated: dict[str, list[Record]]) -> None:
    known = {title: records for title, records in evaluated.items() if records}
    if known:
        path = plan.reports("README.md")
        write_atomically(path, plan_page(plan.name, known).encode())
        log.info("wrote %s", path)


def _write_pages(plan: ReadyPlan, evaluated: dict[str, list[Record]]) -> None:
    """Writes the HTML page of each evaluation that is complete and has none yet."""
    for title, records in evaluated.items():
        folder = plan.reports(title)
        if len(records) == len(list(plan.all_runs())) and not (folder / "report.html").exists():
            try:
                report(ReportSettings(name=title, reports=str(folder.parent)))
            except ImportError as error:  # the numbers do not wait for a picture
                log.warning("%s", error)


def _show_best(
    readme: Path, plans: Sequence[ReadyPlan], evaluated: dict[str, dict[str, list[Record]]]
) -> None:
    """Shows in the README the paper's own protocol, once a seed of it is finished, else the first.

    A plan's first evaluation counts.
    """
    finished = []
    for plan in plans:
        title = next(iter(plan.evaluations))
        records = evaluated[plan.name][title]
        if len({(record.norm, record.adversarial) for record in records}) == len(plan.runs):
            finished.append((plan, title, records))
    if not finished:
        log.warning("no plan has all its norms evaluated yet; %s is left as it is", readme)
        return
    finished.sort(key=lambda item: item[0].runs[0].protocol != "paper")
    plan, title, records = finished[0]
    show_results(readme, f"{plan.name}/{title}", records)
    log.info("%s shows %s", readme, plan.reports(title))

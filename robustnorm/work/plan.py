"""Carries out a plan; the folders alone tell what is already done."""

from __future__ import annotations

import logging
from dataclasses import replace

from robustnorm.data.dataset import Dataset
from robustnorm.evaluation.protocol import evaluation_hash, find_record, is_checked, record_path
from robustnorm.records.record import Record
from robustnorm.reporting.tables import train_in, write_tables
from robustnorm.runs import Run
from robustnorm.runs.described import load_data
from robustnorm.runs.run import is_trained
from robustnorm.settings.config import Config
from robustnorm.settings.plan import Plan
from robustnorm.system.device import resolve_device
from robustnorm.system.stopping import ShouldStop, Stopped
from robustnorm.work.earlier import recall, set_aside
from robustnorm.work.evaluate_run import evaluate_run
from robustnorm.work.train import train_run

log = logging.getLogger("robustnorm")


def carry_out(plan: Plan, *, should_stop: ShouldStop) -> None:
    """Trains and evaluates everything that is missing, one seed after another.

    Raises:
        UsageError: When a folder holds a run with other settings or data, or a loss diverges.
        DataError, CheckpointError, RecordError: When data, a checkpoint or a record is unusable.
        Stopped: When ``should_stop`` asks for it; the next call continues.
    """
    device, dataset = resolve_device(plan.runs[0].device), load_data(plan.runs[0])
    for seed in plan.seeds:
        runs = plan.of_seed(seed)
        for run in runs:
            if not should_stop(0.0):
                train_run(run, should_stop=should_stop)
            if not is_trained(run, dataset):
                raise Stopped(f"{plan.name}, {run.run} has not finished training")
        for title, evaluation in plan.evaluations.items():
            for run in [run for run in runs if run in plan.evaluated(title)]:
                trained, reports = _open(run, evaluation), plan.reports(title)
                found = recall(trained, evaluation, dataset, reports)
                if found is None or not is_checked(found, evaluation):
                    same = _same_evaluation(plan, title, trained, dataset)
                    if same is not None:
                        path = record_path(reports, trained.folder, evaluation)
                        set_aside(path, trained, evaluation_hash(trained, evaluation, dataset))
                        same.save(path)
                evaluate_run(trained, evaluation, dataset, device, reports, should_stop)


def _same_evaluation(plan: Plan, title: str, trained: Run, dataset: Dataset) -> Record | None:
    """Returns the record of the same network under the same protocol, found as another checkpoint.

    When the last epoch is the best one, "best" and "last" are the same network.
    """
    evaluation = plan.evaluations[title]
    for name, other in plan.evaluations.items():
        if replace(other, checkpoint=evaluation.checkpoint) != evaluation or name == title:
            continue
        earlier = Run.find(trained.folder, other.checkpoint)
        if earlier is None or not earlier.checkpoint.has_weights_of(trained.checkpoint):
            continue
        record = find_record(earlier, other, dataset, plan.reports(name))
        if record is not None and not record.images:  # images are kept with one record
            log.info(
                "%s: checkpoints '%s' and '%s' are the same network, evaluated once",
                *(trained.folder.name, other.checkpoint, evaluation.checkpoint),
            )
            tag = {"tag": evaluation.checkpoint, "sha256": trained.sha256}
            return replace(record, checkpoint=record.checkpoint | tag)
    return None


def report_found(plan: Plan, command: str) -> dict[str, list[Record]]:
    """Writes the tables of finished evaluations; returns the records by evaluation.

    Args:
        plan: The plan.
        command: The command of its campaign.
    """
    found: dict[str, list[Record]] = {title: [] for title in plan.evaluations}
    dataset = load_data(plan.runs[0])
    for title, evaluation in plan.evaluations.items():
        for run in plan.evaluated(title):
            if is_trained(run, dataset):
                trained, reports = _open(run, evaluation), plan.reports(title)
                record = find_record(trained, evaluation, dataset, reports)
                found[title] += [] if record is None else [record]
        if found[title]:
            write_tables(found[title], plan.reports(title), train_command=train_in(command))
    return found


def _open(run: Config, evaluation: Config) -> Run:
    return Run.open(run.folder, evaluation.checkpoint)

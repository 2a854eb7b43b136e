"""Works on a campaign within its time budget; the folders alone tell what is already done."""

from __future__ import annotations

import logging
import shlex
from collections.abc import Sequence
from pathlib import Path

from robustnorm.evaluation.protocol import record_path
from robustnorm.records.record import Record
from robustnorm.reporting.plans import plan_page
from robustnorm.reporting.readme import check_block, show_results
from robustnorm.runs.described import load_data
from robustnorm.settings.campaign import PLAN_PAGE, CampaignSettings, campaign_plans
from robustnorm.settings.plan import Plan
from robustnorm.settings.results import ReportSettings
from robustnorm.system.device import device_name, resolve_device
from robustnorm.system.files import write_atomically
from robustnorm.system.stopping import Budget, ShouldStop, Stopped, either, interrupted, never
from robustnorm.work.plan import carry_out, report_found
from robustnorm.work.remaining import remaining
from robustnorm.work.report import report

log = logging.getLogger("robustnorm")


def run_campaign(
    campaign: CampaignSettings, config_path: str | None = None, *, should_stop: ShouldStop = never
) -> str:
    """Trains and evaluates until everything is done or the budget is spent; returns what is left.

    Plans are carried out in order, as are the seeds of a plan: all norms are trained with one seed
    and evaluated before the next seed begins. Reports are written from all evaluations so far.

    Args:
        campaign: The settings.
        config_path: Path of the campaign's file, for the command that the tables name.
        should_stop: Called in addition to the budget; a signal also skips the reports.

    Raises:
        UsageError: When a folder holds a run with other settings or data, or a loss diverges.
        DataError, CheckpointError, RecordError: When data, a checkpoint or a record is unusable.
        Stopped: When a signal arrives.
    """
    if campaign.budget is not None:
        should_stop = either(should_stop, Budget(campaign.budget))
    plans, device = campaign_plans(campaign), resolve_device(campaign.device)
    for plan in plans:
        load_data(plan.runs[0])  # reports missing or damaged data before any training
    readme = None if campaign.readme is None else Path(campaign.readme)
    if readme is not None:
        check_block(readme)
    try:
        for plan in plans:
            carry_out(plan, should_stop=should_stop)
    except Stopped as stop:
        if interrupted(should_stop):
            raise
        log.info("the time budget is spent: %s", stop)
    command = f"robustnorm campaign --config {shlex.quote(str(config_path))}"
    evaluated = {plan.name: report_found(plan, command) for plan in plans}
    for plan in plans:
        _write_plan_page(plan, evaluated[plan.name])
        _write_reports(plan, evaluated[plan.name], command)
    if readme is not None:
        _show_best(readme, plans, evaluated)
    return remaining(plans, evaluated, device_name(device))


def _write_plan_page(plan: Plan, evaluated: dict[str, list[Record]]) -> None:
    known = {title: records for title, records in evaluated.items() if records}
    if known:
        path = plan.reports(PLAN_PAGE)
        write_atomically(path, plan_page(plan.name, known).encode())
        log.info("wrote %s", path)


def _write_reports(plan: Plan, evaluated: dict[str, list[Record]], command: str) -> None:
    """Writes the HTML report of each complete evaluation."""
    for title, records in evaluated.items():
        folder, runs = plan.reports(title), plan.evaluated(title)
        if len(records) == len(runs):
            paths = [record_path(folder, run.folder, plan.evaluations[title]) for run in runs]
            settings = ReportSettings(title, [*map(str, paths)], str(folder.parent))
            try:
                report(settings, campaign=command)
            except ImportError as error:  # the results do not depend on the page
                log.warning("%s", error)


def _show_best(
    readme: Path, plans: Sequence[Plan], evaluated: dict[str, dict[str, list[Record]]]
) -> None:
    """Shows a plan's first evaluation in the README.

    Of the plans for which all norms have been evaluated with some seed, one of the paper's protocol
    is preferred, and otherwise the first.
    """
    finished = []
    for plan in plans:
        title = next(iter(plan.evaluations))
        records = evaluated[plan.name][title]
        if len({(record.norm, record.adversarial) for record in records}) == len(plan.runs):
            finished.append((plan, title, records))
    if not finished:
        log.warning("no plan has evaluated all its norms yet; %s is left unchanged", readme)
        return
    finished.sort(key=lambda item: item[0].runs[0].protocol != "paper")
    plan, title, records = finished[0]
    show_results(readme, f"{plan.name}/{title}", records)
    log.info("%s shows %s", readme, plan.reports(title))

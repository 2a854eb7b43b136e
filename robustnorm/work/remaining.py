"""The remaining work of a campaign, and an estimate of how long it takes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import mean

from tabulate import tabulate
from tqdm import tqdm

from robustnorm.data.batches import steps_per_epoch
from robustnorm.records.record import Record
from robustnorm.runs import Run
from robustnorm.settings.config import Config
from robustnorm.settings.plan import Plan


def remaining(
    plans: Sequence[Plan],
    evaluated: Mapping[str, Mapping[str, Sequence[Record]]],
    device: str,
) -> str:
    """Returns a table of finished work, and how to continue.

    Args:
        plans: Plans of the campaign.
        evaluated: Existing records by plan and evaluation.
        device: Device for the estimate; only times measured on it count.
    """
    rows, complete = [], True
    for plan in plans:
        saved = {run: Run.find(run.folder, "last") for run in plan.all_runs()}
        done = {run: epochs_done(last) for run, last in saved.items()}
        total = sum(run.epochs for run in done)
        count = sum(map(len, evaluated[plan.name].values()))
        wanted = sum(len(plan.evaluated(title)) for title in plan.evaluations)
        times = [
            *_training(done, saved, device),
            *_evaluating(plan, evaluated[plan.name], device),
        ]
        complete &= count == wanted
        rows.append(
            (
                plan.name,
                f"{sum(done.values()):.1f} of {total}",
                f"{count} of {wanted}",
                "done" if count == wanted else _time(times),
            )
        )
    table = tabulate(rows, headers=("Plan", "Epochs", "Evaluations", f"Left on {device}"))
    return f"{table}\n\n" + (
        "Everything is done." if complete else "To continue, repeat the command."
    )


def epochs_done(run: Run | None) -> float:
    """Returns the number of epochs that a run has done, including a fraction of the current one."""
    if run is None:
        return 0.0
    steps = steps_per_epoch(run.dataset["train_images"], run.config.batch_size)
    return float(run.epoch + len(run.within_epoch.get("losses", ())) / steps)


def _training(
    done: Mapping[Config, float], saved: Mapping[Config, Run | None], device: str
) -> list[float | None]:
    """Returns the remaining seconds of each unfinished run; None if no such run was measured."""
    measured: dict[tuple[str, bool], list[float]] = {}
    for run, last in saved.items():
        for entry in last.history if last else ():
            if entry.get("device") == device:
                seconds = entry["seconds"] + entry["validation_seconds"]
                measured.setdefault((run.norm, run.adversarial), []).append(seconds)
    return [
        (run.epochs - epochs) * mean(measured[run.norm, run.adversarial])
        if (run.norm, run.adversarial) in measured
        else None
        for run, epochs in done.items()
        if epochs < run.epochs
    ]


def _evaluating(
    plan: Plan, evaluated: Mapping[str, Sequence[Record]], device: str
) -> list[float | None]:
    """Returns the seconds of each missing evaluation; None if no such evaluation was measured."""
    times: list[float | None] = []
    for title in plan.evaluations:
        measured = {
            (record.norm, record.adversarial): record.wall_seconds
            for record in evaluated[title]
            if record.device == device
        }
        there = {(record.norm, record.adversarial, record.seed) for record in evaluated[title]}
        times += [
            measured.get((run.norm, run.adversarial))
            for run in plan.evaluated(title)
            if (run.norm, run.adversarial, run.seed) not in there
        ]
    return times


def _time(seconds: Sequence[float | None]) -> str:
    known = [each for each in seconds if each is not None]
    if not known:
        return "not measured yet"
    text = f"about {tqdm.format_interval(round(sum(known)))}"
    unknown = len(seconds) - len(known)
    return text + (f" and {unknown} runs or evaluations not measured yet" if unknown else "")

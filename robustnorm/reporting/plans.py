"""A plan's results: the paper's claims, best and later checkpoints, AutoAttack."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from statistics import mean
from urllib.parse import quote

from robustnorm.records.parts import Check
from robustnorm.records.record import SINGLE, Record
from robustnorm.reporting.claims import PGD, claims_table, claims_text, orders_text, seeds_table
from robustnorm.reporting.model_records import ModelRecords, group
from robustnorm.reporting.render import Cell, Table, to_markdown
from robustnorm.system.escaping import for_markdown


def plan_page(name: str, evaluations: Mapping[str, Sequence[Record]]) -> str:
    """Returns a Markdown page that sums up a plan's records.

    Args:
        name: Name of the plan.
        evaluations: Records by name of the evaluation, which is also the name of its folder. The
            first evaluation is compared with the paper, as are other checkpoints on its images
            where they are other networks.
    """
    first = next(iter(evaluations.values()))
    links = ", ".join(f"[{for_markdown(title)}]({quote(title)}/tables.md)" for title in evaluations)
    several_seeds = len({record.seed for record in first}) > 1
    over_seeds = [claims_table(first), seeds_table(first)] if several_seeds else []
    tables = [
        *over_seeds,
        *(make(evaluations) for make in (_best_and_later, _autoattack, _checks)),
    ]
    return "\n".join(
        [
            f"# {for_markdown(name)}\n\n{provenance_text(first)}\n",
            f"Tables by evaluation: {links}.\n",
            "## The paper's claims\n\n"
            f"Checkpoint '{for_markdown(first[0].checkpoint['tag'])}'. "
            f"{claims_text(first) or 'Nothing to compare.'}\n",
            *_claims_of_others(first, evaluations.values()),
            *(to_markdown(table) for table in tables if table),
        ]
    )


def _claims_of_others(
    first: Sequence[Record], evaluations: Iterable[Sequence[Record]]
) -> Iterator[str]:
    """Yields the claims of other checkpoints on the same images, where they say something else."""
    said = {orders_text(first), ""}
    for records in evaluations:
        if records is first or records[0].image_ids != first[0].image_ids:
            continue
        text, tag = orders_text(records), records[0].checkpoint["tag"]
        if text not in said:
            said.add(text)
            yield f"Checkpoint '{for_markdown(tag)}'. {text}\n"


def provenance_text(records: Sequence[Record]) -> str:
    """Describes the data, devices, time and source commit of the records."""
    first = records[0]
    history = [entry for record in records for entry in record.history]
    training = sum(entry["seconds"] + entry.get("validation_seconds", 0.0) for entry in history)
    devices = _each(entry.get("device", "an unknown device") for entry in history)
    evaluating = sum(record.wall_seconds for record in records)
    return for_markdown(
        f"Data: {first.dataset['name']}, {first.dataset['train_images']:,} training images, "
        f"n = {first.n:,} test images. {len(records)} run{'s' * (len(records) > 1)}, trained in "
        f"{_time(training)} on {devices}, evaluated in {_time(evaluating)} on "
        f"{_each(record.device for record in records)}; robustnorm "
        f"{_each(record.versions.get('robustnorm', 'unknown') for record in records)}, torch "
        f"{_each(record.versions.get('torch', 'unknown') for record in records)}, commit "
        f"{_each(record.versions.get('commit', 'unknown') for record in records)}."
    )


def _best_and_later(evaluations: Mapping[str, Sequence[Record]]) -> Table | None:
    """Compares the best checkpoint's accuracies with those of later checkpoints."""
    by_tag: dict[str, list[Sequence[Record]]] = {}
    for records in evaluations.values():
        by_tag.setdefault(records[0].checkpoint["tag"], []).append(records)
    best = by_tag.pop("best", [])
    rows: list[tuple[Cell, ...]] = []
    for tag, later in by_tag.items():
        on_same_images = (
            pair
            for pair in itertools.product(best, later)
            if pair[0][0].image_ids == pair[1][0].image_ids
        )
        for one, other in itertools.product(*map(group, next(on_same_images, ((), ())))):
            if (one.norm, one.adversarial) != (other.norm, other.adversarial):
                continue
            for evaluation in ("SA", PGD):
                before, after = (_accuracies(model, evaluation, "adv") for model in (one, other))
                seeds = [seed for seed in before if seed in after]
                if seeds:
                    means = [mean(of[seed] for seed in seeds) for of in (before, after)]
                    change = f"{100 * (means[1] - means[0]):+z.2f}"
                    rows.append((one.label("adv"), tag, evaluation, *means, change))
    if not rows:
        return None
    return Table(
        "best-and-later",
        "Best against later checkpoints",
        ("Model", "Later", "Evaluation", "Best %", "Later %", "Change"),
        rows,
        [
            f"Best: the epoch with the highest robust accuracy on {_held_out(best[0][0])}. A drop "
            "in robust accuracy after it is robust overfitting. Means over the seeds that have "
            "both."
        ],
    )


def _held_out(record: Record) -> str:
    """Describes the images that choose the best epoch, and how well they can."""
    n = record.config.get("validation")
    if not isinstance(n, int) or n < 1:
        return "held-out training images"
    error = 100 * math.sqrt(0.25 / n)
    return f"{n:,} held-out training images (standard error at most {error:.1f} points)"


def _autoattack(evaluations: Mapping[str, Sequence[Record]]) -> Table | None:
    """Compares accuracy under AutoAttack with that under PGD on the same images."""
    rows: list[tuple[Cell, ...]] = []
    for records in evaluations.values():
        for model in group([record for record in records if record.has("autoattack")]):
            for branch in model.records[0].branches:
                pgd, autoattack = (
                    mean(_accuracies(model, evaluation, branch).values())
                    for evaluation in (PGD, "RA, AutoAttack")
                )
                rows.append(
                    (
                        model.label(branch),
                        str(model.records[0].checkpoint["tag"]),
                        f"{model.records[0].n:,}",
                        pgd,
                        autoattack,
                        f"{100 * (autoattack - pgd):+z.2f}",
                        model.worst(branch),
                    )
                )
    if not rows:
        return None
    return Table(
        "autoattack",
        "Accuracy under AutoAttack",
        ("Model", "Checkpoint", "n", "PGD-20 %", "AutoAttack %", "Change", "Worst %"),
        rows,
        [
            "All attacks on the branch that scores, on the same images; means over seeds. Worst "
            "%: images that withstand everything that was run."
        ],
    )


def _checks(evaluations: Mapping[str, Sequence[Record]]) -> Table | None:
    """Lists the checks that do not find an evaluation reliable, over its seeds."""
    found: dict[tuple[str, str, str], list[Check]] = {}
    for title, records in evaluations.items():
        for model in group(records):
            for check in (check for record in model.records for check in record.checks):
                label = model.name + f" ({check.answer})" * (check.answer != SINGLE)
                found.setdefault((title, label, check.name), []).append(check)
    if not found:
        return None
    rows: list[tuple[Cell, ...]] = []
    for of, checks in found.items():
        for verdict in ("unreliable", "warn"):
            failed = [check for check in checks if check.verdict == verdict]
            if failed:
                values = ", ".join(f"{check.value:.3g}" for check in failed)
                seeds = f"{len(failed)} of {len(checks)}"
                rows.append((*of, verdict, seeds, values, failed[0].figure))
    run = sum(map(len, found.values()))
    return Table(
        "checks",
        "Checks that do not find an evaluation reliable",
        ("Evaluation", "Model", "Check", "Verdict", "Seeds", "Value", "Value is"),
        rows,
        [f"Of {run:,} verdicts of checks on branches and serving rules; the others are reliable."],
    )


def _accuracies(model: ModelRecords, evaluation: str, branch: str) -> dict[int, float]:
    """Returns the accuracy by seed."""
    return {seed: float(v.mean()) for seed, v in model.by_seed(evaluation, branch).items()}


def _each(texts: Iterable[str]) -> str:
    return ", ".join(dict.fromkeys(texts))


def _time(seconds: float) -> str:
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours}:{minutes:02d} h"

"""The grid of {shared, split} statistics x {shared, split, sandwich} affine, from records."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from statistics import mean

from robustnorm.evaluation.statistics import wilson
from robustnorm.records.record import Record
from robustnorm.reporting.comparisons import group_note, groups
from robustnorm.reporting.model_records import WORST, ModelRecords, group, has_worst
from robustnorm.reporting.notes import setting_notes
from robustnorm.reporting.render import Cell, Table

# The norm of each cell, by statistics and affine. With both shared the branches are identical, so
# that cell is BN.
GRID = {
    ("shared", "shared"): "bn",
    ("shared", "split"): "ccbn",
    ("shared", "sandwich"): "sabn",
    ("split", "shared"): "auxstatbn",
    ("split", "split"): "auxbn",
    ("split", "sandwich"): "saauxbn",
}


def ablation_table(records: Sequence[Record]) -> Table:
    """Returns the grid of accuracies with their intervals, for each metric.

    Args:
        records: Records of one evaluation; controls, imported weights and norms outside the grid
            are ignored. A cell without a record stays empty.
    """
    models = [m for m in group(records) if m.repeats_paper and m.norm in GRID.values()]
    largest = max(models, key=lambda model: len(model.records[0].branches))
    branches = largest.records[0].branches
    robust = ["RA, PGD-20"] + [WORST] * has_worst(models)
    metrics = [("SA", branch) for branch in branches]
    metrics += [(evaluation, branch) for evaluation in robust for branch in branches[1:]]
    statistics, affines = (tuple(dict.fromkeys(axis)) for axis in zip(*GRID, strict=True))
    rows: list[tuple[Cell, ...]] = []
    for evaluation, branch in metrics:
        cells = _cells(models, evaluation, branch, largest.ball(evaluation, branch))
        for row in statistics:
            found = (cells.get(GRID[row, affine], (None, None, None)) for affine in affines)
            rows.append((f"{evaluation}, {branch} branch", row, *itertools.chain(*found)))
    columns: tuple[str, ...] = ("Evaluation", "Statistics")
    for affine in affines:
        columns += (f"{affine.capitalize()} affine %", "95 % interval", "Group")
    names = ", ".join(f"{'/'.join(cell)}: {norm}" for cell, norm in GRID.items())
    return Table(
        "ablation",
        "Ablation: statistics and affine, shared or split by branch",
        columns,
        rows,
        [
            *setting_notes(models),
            f"Norms by statistics/affine: {names}. bn has no branches, so one number fills all "
            "rows of an evaluation; where a branch is attacked in another threat model or radius "
            "than bn was, its cell is empty.",
            group_note(models),
        ],
    )


def _cells(
    models: list[ModelRecords], evaluation: str, branch: str, ball: object
) -> dict[str, tuple[Cell, ...]]:
    """Returns accuracy, interval and group of each norm that was attacked in the ball."""
    models = [m for m in models if m.ball(evaluation, m.branch(branch)) == ball]
    sides = [(model, model.branch(branch)) for model in models]
    found = [model.correct(evaluation, name) for model, name in sides]
    marks = groups(evaluation, sides)
    cells: dict[str, tuple[Cell, ...]] = {}
    for model, correct, mark in zip(models, found, marks, strict=True):
        accuracy, n = mean(float(bits.mean()) for bits in correct), model.records[0].n
        cells[model.norm] = accuracy, wilson(accuracy * n, n), mark
    return cells

"""The grid of {shared, split} statistics x {shared, split, sandwich} affine, from records."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import mean

from robustnorm.evaluation.records import Record
from robustnorm.evaluation.statistics import wilson
from robustnorm.reporting.models import LAST, Model, group
from robustnorm.reporting.notes import setting_notes, test_note
from robustnorm.reporting.render import Cell, Table

# The norm of each cell, by statistics and affine; with both shared nothing tells the branches
# apart, and the cell is BN.
GRID = {
    ("shared", "shared"): "bn",
    ("shared", "split"): "ccbn",
    ("shared", "sandwich"): "sabn",
    ("split", "shared"): "auxstatbn",
    ("split", "split"): "auxbn",
    ("split", "sandwich"): "saauxbn",
}


def ablation_table(records: Sequence[Record]) -> Table:
    """Returns for each metric the grid's accuracies with their intervals.

    Args:
        records: Of one evaluation; norms outside the grid and controls are left out. A cell without
            a record stays empty.
    """
    models = [m for m in group(records) if m.adversarial and m.norm in GRID.values()]
    cells = {model.norm: model for model in models}
    branches = max((model.records[0].branches for model in models), key=len)
    metrics = [("SA", "none", branch) for branch in branches]
    metrics += [("RA, PGD-20", LAST, branch) for branch in branches[1:]]
    statistics, affines = (tuple(dict.fromkeys(axis)) for axis in zip(*GRID, strict=True))
    rows: list[tuple[Cell, ...]] = []
    for evaluation, attack, branch in metrics:
        for row in statistics:
            accuracies = [
                _accuracy(cells.get(GRID[row, affine]), attack, branch) for affine in affines
            ]
            rows.append((f"{evaluation}, {branch} branch", row, *sum(accuracies, ())))
    columns: tuple[str, ...] = ("Evaluation", "Statistics")
    for affine in affines:
        columns += (f"{affine.capitalize()} affine %", "95 % interval")
    names = ", ".join(f"{'/'.join(cell)}: {norm}" for cell, norm in GRID.items())
    return Table(
        "ablation",
        "Ablation: statistics and affine, shared or split by branch",
        columns,
        rows,
        [
            *setting_notes(models),
            f"Norms by statistics/affine: {names}. bn has no branches: one number stands in all "
            "rows of an evaluation.",
            test_note("adv", "RA, PGD-20", models),
        ],
    )


def _accuracy(model: Model | None, attack: str, branch: str) -> tuple[Cell, ...]:
    if model is None:
        return None, None
    place = model.branch(branch)
    accuracy = mean(v.accuracy for v in model.verdicts(attack, "final", place, place))
    n = model.records[0].n
    return accuracy, wilson(accuracy * n, n)

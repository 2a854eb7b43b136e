"""Figure 2's numbers as tables: the gradients of the classes with CCBN and with SaBN."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from statistics import mean

from robustnorm.applications.gan.record import GanRecord, compared_pairs
from robustnorm.applications.gan.tables import NETWORKS, PAIRED_NOTE
from robustnorm.evaluation.diversity import StageDiversity
from robustnorm.evaluation.statistics import student
from robustnorm.reporting.render import Cell, Table, bracketed

# Quantities of a stage in Figure 2 and its tables.
SPREAD, RELATIVE, COSINE = "Std of norms", "Std over mean", "Mean cosine"
QUANTITIES: dict[str, Callable[[StageDiversity], float]] = {
    RELATIVE: lambda stage: stage.std_of_norms / (stage.mean_norm or 1.0),  # 0 if all norms are 0
    SPREAD: lambda stage: stage.std_of_norms,
    COSINE: lambda stage: stage.mean_cosine,
}


def gradient_tables(records: Sequence[GanRecord], setting: str) -> list[Table]:
    """Returns in how many stages SaBN's numbers are lower, and all numbers.

    Args:
        records: Records of one table.
        setting: From ``setting_note``.

    Returns:
        Two tables; none without a pair of runs.
    """
    made = [_lower_stages(records, setting), _gradients(records, setting)]
    if left_out := [f"{r.network}-{r.norm}-seed{r.seed}" for r in records if not r.gradients]:
        note = f"Left out, since gradients were zero or not compared: {', '.join(left_out)}."
        made = [replace(table, notes=[*table.notes, note]) for table in made]
    return [table for table in made if table.rows]


def stage_values(
    found: Sequence[tuple[GanRecord, GanRecord]], entry: int, stage: int, quantity: str
) -> tuple[list[float], list[float]]:
    """Returns a quantity of a stage with CCBN and with SaBN, for each pair of runs.

    Args:
        found: From ``pairs``.
        entry: Index into ``GanRecord.gradients``.
        stage: Index of the stage.
        quantity: A key of ``QUANTITIES``.
    """
    value = QUANTITIES[quantity]
    ccbn, sabn = (
        [value(record.gradients[entry].stages[stage]) for record in side]
        for side in zip(*found, strict=True)
    )
    return ccbn, sabn


def _lower_stages(records: Sequence[GanRecord], setting: str) -> Table:
    """Returns in how many stages SaBN's number is the lower one, by step and reading of Eq. 4."""
    rows: list[tuple[Cell, ...]] = []
    for network, name in NETWORKS.items():
        found = compared_pairs(records, network)
        for entry, gradients in enumerate(found[0][0].gradients if found else ()):
            cells: list[Cell] = []
            for quantity in QUANTITIES:
                lower = surely = higher = 0
                for stage in range(len(gradients.stages)):
                    ccbn, sabn = stage_values(found, entry, stage, quantity)
                    values = [b - a for a, b in zip(ccbn, sabn, strict=True)]
                    limits = student(values)
                    lower += mean(values) < 0
                    surely += limits is not None and limits.high < 0
                    higher += limits is not None and limits.low > 0
                cells += [f"{lower} of {len(gradients.stages)}", f"{surely} / {higher}"]
            rows.append((name, gradients.reading, str(gradients.step), str(len(found)), *cells))
    return Table(
        "places",
        "Stages of the generator in which SaBN's number is the lower one",
        (
            "GAN",
            "Reading",
            "Step",
            "Seeds",
            *(
                column
                for quantity in QUANTITIES
                for column in (quantity, f"sure, {quantity.lower()}")
            ),
        ),
        rows,
        [
            setting,
            "A stage counts as lower if the mean over pairs of runs with the same seed is. Sure: "
            "stages with SaBN lower / higher whose 95 % interval (Student's over seeds, not "
            "adjusted) excludes 0; one in twenty does so by chance, and the stages of a run are "
            "not independent.",
            _GRADIENT_NOTE,
        ],
    )


_GRADIENT_NOTE = (
    "Gradients of the generator's loss with respect to its convolutions (the paper: those directly "
    "before a norm) and its first linear layer, compared between classes for the same latent "
    "vectors (Gong et al., Eq. 4 and 5, Figure 2). Eq. 4 can be read in two ways. Single samples: "
    "the gradient of one image, the generator's norm layers using running statistics. Class "
    "batches: that of a batch of one class, the norm layers using the batch's statistics. Std over "
    "mean: the standard deviation of the gradients' norms divided by their mean, which does not "
    "depend on how large a checkpoint's gradients are; the paper shows the standard deviation "
    "alone."
)


def _gradients(records: Sequence[GanRecord], setting: str) -> Table:
    rows: list[tuple[Cell, ...]] = []
    for network, name in NETWORKS.items():
        found = compared_pairs(records, network)
        for entry, gradients in enumerate(found[0][0].gradients if found else ()):
            for number, stage in enumerate(gradients.stages):
                cells: list[Cell] = []
                for quantity in QUANTITIES:
                    ccbn, sabn = stage_values(found, entry, number, quantity)
                    values = [b - a for a, b in zip(ccbn, sabn, strict=True)]
                    cells += [
                        f"{mean(ccbn):.3f}",
                        f"{mean(sabn):.3f}",
                        bracketed(student(values), 3),
                    ]
                where = f"{gradients.reading}, step {gradients.step}"
                rows.append((name, where, stage.stage, *cells))
    return Table(
        "gradients",
        "Gradients of the classes, stage by stage",
        (
            "GAN",
            "Reading and step",
            "Stage",
            *(
                f"{quantity}, {column}"
                for quantity in QUANTITIES
                for column in ("CCBN", "SaBN", "interval of SaBN minus CCBN")
            ),
        ),
        rows,
        [setting, _GRADIENT_NOTE, PAIRED_NOTE],
    )

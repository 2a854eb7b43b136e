"""Tables of the studies of a trained network: swapped branches, re-estimated statistics, gates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import mean

from robustnorm.evaluation.statistics import wilson
from robustnorm.records.record import Record
from robustnorm.reporting.model_records import PGD_20, group
from robustnorm.reporting.notes import setting_notes
from robustnorm.reporting.render import Cell, Table
from robustnorm.studies.gates import GateUsage, entropy, mean_interval
from robustnorm.studies.reestimate import Drift


def swap_table(records: Sequence[Record]) -> Table:
    """Returns SA and RA of each branch's statistics with each branch's affine.

    Args:
        records: Evaluations whose branches are named "statistics/affine".
    """
    return _variants(
        "swap",
        "Swap: running statistics of one branch, affine of another",
        ("Statistics", "Affine"),
        records,
        "Each row is a separate network without branches, attacked itself with the attack of the "
        "branch that provides the affine. Where one branch provides both, the network equals that "
        "branch.",
    )


def reestimation_table(records: Sequence[Record], batches: int) -> Table:
    """Returns SA and RA of each branch before and after re-estimating its statistics.

    Args:
        records: Evaluations whose branches are named "branch/statistics".
        batches: Largest number of batches used for the re-estimation.
    """
    return _variants(
        "reestimation",
        "Re-estimation: running statistics as stored, and measured again",
        ("Branch", "Statistics"),
        records,
        _measured_on(batches),
    )


def drift_table(drifts: Mapping[tuple[str, str], Sequence[Drift]], batches: int) -> Table:
    """Returns how far the re-estimated statistics of each layer are from the stored ones.

    Args:
        drifts: The layers' drifts, by model and branch.
        batches: Largest number of batches used for the re-estimation.
    """
    rows: list[tuple[Cell, ...]] = []
    for (model, branch), layers in drifts.items():
        for d in layers:
            values = (d.mean, d.largest_mean, d.deviation, d.largest_deviation)
            rows.append((model, branch, d.layer, *(f"{value:.3f}" for value in values)))
    return Table(
        "drift",
        "Drift: re-estimated running statistics, in stored standard deviations",
        ("Model", "Branch", "Layer", "Mean", "largest", "Deviation", "largest"),
        rows,
        [
            _measured_on(batches),
            "Mean: |m' - m| / s, deviation: |s' - s| / s, each averaged over a layer's channels, "
            "followed by the largest value; m and s are the stored mean and standard deviation, m' "
            "and s' the re-estimated ones.",
        ],
    )


def gate_tables(
    usages: Mapping[str, Sequence[GateUsage]], records: Sequence[Record]
) -> list[Table]:
    """Returns tables of each mode's mean gate, and of how far an attack changes an image's gates.

    Args:
        usages: The layers' gates, by model.
        records: Records of the same models, for the notes.
    """
    n = len(next(iter(usages.values()))[0].clean)
    shares: list[tuple[Cell, ...]] = []
    moves: list[tuple[Cell, ...]] = []
    for model, layers in usages.items():
        for layer in layers:
            change = layer.adv - layer.clean
            for mode in range(layer.clean.shape[1]):
                shares.append(
                    (
                        model,
                        layer.layer,
                        str(mode + 1),
                        layer.clean[:, mode].mean().item(),
                        layer.adv[:, mode].mean().item(),
                        f"{100 * change[:, mode].mean().item():+z.2f}",
                        mean_interval(change[:, mode]),
                    )
                )
            entropies = (entropy(gates).mean().item() for gates in (layer.clean, layer.adv))
            distance = layer.distance()
            moves.append(
                (
                    model,
                    layer.layer,
                    *(f"{value:.3f}" for value in entropies),
                    distance.mean().item(),
                    mean_interval(distance),
                )
            )
    notes = [
        f"On {n:,} test images and on the same images after PGD-20 against the network. Intervals: "
        "normal, 95 %, for the mean over these images.",
        *setting_notes(group(records)),
    ]
    return [
        Table(
            "gates",
            "Gates: mean gate of each mode of ModeNorm",
            ("Model", "Layer", "Mode", "Clean %", "PGD-20 %", "Difference", "95 % interval"),
            shares,
            notes,
        ),
        Table(
            "gate-distance",
            "Gates: entropy, and how far an attack moves them",
            (
                "Model",
                "Layer",
                "Entropy, clean (bits)",
                "Entropy, PGD-20 (bits)",
                "Distance %",
                "95 % interval",
            ),
            moves,
            [
                notes[0],
                "Entropy of an image's gates, averaged: 0 if one mode has all the weight, 1 bit if "
                "two modes share it evenly. Distance: total variation, the fraction of an image's "
                "weight that moves to another mode.",
            ],
        ),
    ]


def _measured_on(batches: int) -> str:
    return (
        f"Re-estimated on at most {batches:,} augmented training batches: clean images through the "
        "clean branch; for every other branch, images attacked through it as in training, but "
        "always with batch statistics. Weights do not change."
    )


def _variants(
    name: str, title: str, labels: tuple[str, str], records: Sequence[Record], note: str
) -> Table:
    models = group(records)
    rows: list[tuple[Cell, ...]] = []
    for model in models:
        n = model.records[0].n
        for variant in model.records[0].branches:
            standard, final, any_iterate = (
                mean(v.accuracy for v in model.verdicts(attack, rule, variant, variant))
                for attack, rule in (("none", "final"), (PGD_20, "final"), (PGD_20, "any"))
            )
            rows.append(
                (
                    model.name,
                    *variant.split("/"),
                    standard,
                    wilson(standard * n, n),
                    final,
                    wilson(final * n, n),
                    any_iterate,
                    model.worst(variant),
                )
            )
    columns = (
        *("Model", *labels, "SA %", "95 % interval"),
        *("RA, PGD-20 %", "95 % interval", "Any %", "Worst %"),
    )
    return Table(name, title, columns, rows, [note, *setting_notes(models)])

"""The cost of each attack and its effect: robust accuracy against passes through the network."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from statistics import mean

from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from robustnorm.reporting.drawing import INK, Look, legend, panels
from robustnorm.reporting.model_records import ModelRecords

_MARKERS = "osD^vP*X<>"


def accuracy_over_passes(models: Sequence[ModelRecords], looks: dict[str, Look]) -> Figure | None:
    """Returns robust accuracy against forward and backward passes per image, one line per model.

    Each point is one attack on the adversarial branch, or the only one, averaged over seeds.
    Returns None if no passes were counted.
    """
    points: dict[str, dict[str, tuple[float, float]]] = {}
    for model in models:
        branch, n = model.branch("adv"), model.records[0].n
        for attack in dict.fromkeys(verdict.attack for verdict in model.records[0].verdicts):
            verdicts = [
                verdict
                for record in model.records
                for verdict in record.verdicts
                if (verdict.attack, verdict.rule) == (attack, "final")
                and verdict.attack_branch == verdict.score_branch == branch
            ]
            passes = [verdict.forward + verdict.backward for verdict in verdicts]
            if passes and all(passes):
                accuracy = 100 * mean(verdict.accuracy for verdict in verdicts)
                points.setdefault(model.name, {})[attack] = (mean(passes) / n, accuracy)
    if not points:
        return None
    attacks = list(dict.fromkeys(attack for of in points.values() for attack in of))
    markers = dict(zip(attacks, itertools.cycle(_MARKERS), strict=False))
    figure, (panel,) = panels(1, 1, 2.8)
    for name, of in points.items():
        color = looks[name].color
        panel.plot(*zip(*sorted(of.values()), strict=True), color=color, linewidth=1, zorder=1)
        for attack, point in of.items():
            panel.plot(*point, markers[attack], color=color, clip_on=False)
    panel.set_xscale("log")
    panel.set_ylim(bottom=0)
    panel.set_xlabel("Forward and backward passes per image")
    panel.set_ylabel("Robust accuracy, %")
    marks = [
        Line2D([], [], linestyle="", color=INK, marker=markers[attack], label=attack)
        for attack in attacks
    ]
    legend(figure, {name: looks[name]._replace(marker="") for name in points}, marks)
    return figure

"""Figures of a report, made from records; a function returns None when they lack its data."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from fractions import Fraction
from statistics import mean
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from robustnorm.evaluation.statistics import Interval, wilson
from robustnorm.records.record import SINGLE, Record
from robustnorm.reporting.drawing import INK, Look, legend, panels
from robustnorm.reporting.gradients import shown_interval
from robustnorm.reporting.model_records import ModelRecords

Looks = dict[str, Look]
# Radius in 255ths, accuracy, interval.
_Curve = list[tuple[float, float, Interval]]
# Largest number of rows in the per-class figure: the classes with the lowest robust accuracy.
MOST_CLASSES = 30


def accuracy_over_epsilon(models: Sequence[ModelRecords], looks: Looks) -> Figure | None:
    """Returns accuracy against the attack radius, with one panel per branch or serving rule."""
    curves: dict[str, dict[str, _Curve]] = {}
    for model in models:
        for answer in model.records[0].answers:
            curve = _curve(model, answer)
            if curve:
                curves.setdefault("adv" if answer == SINGLE else answer, {})[model.name] = curve
    if not curves:
        return None
    titles = {"adv": "Adversarial branch, or the only one", "clean": "Clean branch"}
    answers = [*(a for a in titles if a in curves), *(a for a in curves if a not in titles)]
    columns = min(2, len(answers))
    figure, axes = panels(-(-len(answers) // columns), columns, 2.5, sharex=True, sharey=True)
    for panel in axes[len(answers) :]:
        panel.remove()
    for answer, panel in zip(answers, axes, strict=False):
        for name, curve in curves[answer].items():
            x, y, intervals = zip(*curve, strict=True)
            low, high = zip(*intervals, strict=True)
            look = looks[name]
            panel.plot(x, _percent(y), color=look.color, marker=look.marker, clip_on=False)
            panel.fill_between(
                x, _percent(low), _percent(high), color=look.color, alpha=0.15, linewidth=0
            )
        panel.set_title(titles.get(answer, answer.capitalize()))
        radius = 255 * float(Fraction(models[0].records[0].attack_on(answer)["epsilon"]))
        panel.axvline(radius, color=INK, linewidth=0.8, linestyle=":")
    # Square roots give more room to small radii, where the curves differ.
    axes[0].set_xscale("function", functions=(_root, np.square))
    radii = sorted({point[0] for of in curves.values() for curve in of.values() for point in curve})
    axes[0].set_xticks(radii, [f"{radius:g}" for radius in radii])
    axes[0].set_ylim(0, 100)
    for panel in axes[len(answers) - columns : len(answers)]:
        panel.set_xlabel("Attack radius ε, in 1/255")
        panel.xaxis.set_tick_params(labelbottom=True)
    for panel in axes[::columns]:
        panel.set_ylabel("Accuracy, %")
    drawn = {name for of in curves.values() for name in of}
    legend(figure, {name: look for name, look in looks.items() if name in drawn})
    return figure


def _percent(fractions: Sequence[float]) -> list[float]:
    return [100 * fraction for fraction in fractions]


def _root(values: Any) -> Any:
    return np.sqrt(np.maximum(values, 0))


def _curve(model: ModelRecords, answer: str) -> _Curve:
    """Returns the curve of one branch or rule, averaged over seeds."""
    points: dict[str, list[tuple[int, int]]] = {}
    for record in model.records:
        for point in record.curve:
            if point.answer == answer:
                points.setdefault(point.epsilon, []).append((point.correct, point.n))
    curve = []
    for epsilon, counts in points.items():
        accuracy, n = mean(correct / n for correct, n in counts), min(n for _, n in counts)
        curve.append((255 * float(Fraction(epsilon)), accuracy, wilson(accuracy * n, n)))
    return sorted(curve)


def test_losses(models: Sequence[ModelRecords], looks: Looks) -> Figure | None:
    """Returns the paper's Figure 6: losses on test images over the epochs, by branch."""
    # The paper's figure shows AuxBN and SaAuxBN; other models are drawn fainter, in the background.
    trained = [model for model in models if model.adversarial]
    first = [model for model in trained if model.norm in ("auxbn", "saauxbn")]
    shown = [*first, *(model for model in trained if model not in first)]
    return _over_epochs(
        shown,
        looks,
        {
            "Clean loss, clean branch": _reader("test", "clean", "clean_loss"),
            "Adversarial loss, adversarial branch": _reader("test", "adv", "adv_loss"),
        },
        columns=2,
        strong={model.name for model in first or trained},
    )


def training_curves(models: Sequence[ModelRecords], looks: Looks) -> Figure | None:
    """Returns training losses and validation accuracies over the epochs, by branch."""
    return _over_epochs(
        models,
        looks,
        {
            "Training loss, clean images": lambda _, entry: entry["clean_loss"],
            "Training loss, adversarial images": lambda _, entry: entry["adv_loss"],
            "Validation SA %, clean branch": _reader("validation", "clean", "sa"),
            "Validation SA %, adversarial branch": _reader("validation", "adv", "sa"),
            "Validation RA %, clean branch": _reader("validation", "clean", "ra"),
            "Validation RA %, adversarial branch": _reader("validation", "adv", "ra"),
        },
        columns=2,
        strong={model.name for model in models},
    )


Reader = Callable[[ModelRecords, dict[str, Any]], float | None]


def _reader(split: str, branch: str, metric: str) -> Reader:
    """Returns a function that reads one value of a model's epoch, accuracies in percent."""
    scale = 100 if metric in ("sa", "ra") else 1

    def read(model: ModelRecords, entry: dict[str, Any]) -> float | None:
        values = entry[split].get(model.branch(branch))
        return None if values is None else scale * float(values[metric])

    return read


def _over_epochs(
    models: Sequence[ModelRecords],
    looks: Looks,
    readers: dict[str, Reader],
    *,
    columns: int,
    strong: set[str],
) -> Figure | None:
    """Draws one panel per reader and one line per run; marks the best and the last epoch."""
    drawn: dict[str, Look] = {}
    figure, axes = panels(len(readers) // columns, columns, 2.0, sharex=True)
    for panel, (title, read) in zip(axes, readers.items(), strict=True):
        for model in models:
            for record in model.records:
                values = [(entry["epoch"], read(model, entry)) for entry in record.history]
                points = {epoch: value for epoch, value in values if value is not None}
                if points:
                    drawn[model.name] = looks[model.name]
                    _line(panel, points, record, looks[model.name], strong=model.name in strong)
        panel.set_title(title)
        panel.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    for panel in axes[-columns:]:
        panel.set_xlabel("Epoch")
    if not drawn:
        return None
    marks = [
        Line2D([], [], linestyle="", color=INK, marker="o", markersize=6.5, label="best"),
        Line2D([], [], linestyle="", color=INK, marker="s", markerfacecolor="white", label="last"),
    ]
    legend(figure, {name: look._replace(marker="") for name, look in drawn.items()}, marks)
    return figure


def _line(
    panel: Axes, points: dict[int, float], record: Record, look: Look, *, strong: bool
) -> None:
    opacity = 1.0 if strong else 0.45
    panel.plot(
        list(points),
        list(points.values()),
        color=look.color,
        alpha=opacity,
        linewidth=1.6 if strong else 1.1,
        zorder=3 if strong else 2,
    )
    last, best = max(points), record.checkpoint["epoch"]
    if record.checkpoint["tag"] == "best" and best in points:
        panel.plot(
            best, points[best], "o", color=look.color, markersize=6.5, alpha=opacity, zorder=4
        )
    panel.plot(
        last, points[last], "s", color=look.color, markerfacecolor="white", alpha=opacity, zorder=5
    )


def per_class(models: Sequence[ModelRecords], looks: Looks, robust: str = "RA, PGD-20") -> Figure:
    """Returns SA and RA of each class in the adversarial branch, one panel per model."""
    first = models[0].records[0]
    labels, names = np.asarray(first.labels), first.dataset["classes"]
    classes = [k for k in range(len(names)) if (labels == k).any()]
    found = {
        (model.name, evaluation, k): _in_class(model, evaluation, labels == k)
        for model in models
        for evaluation in ("SA", robust)
        for k in classes
    }
    by_robustness = sorted(classes, key=lambda k: mean(found[m.name, robust, k][0] for m in models))
    shown = by_robustness[:MOST_CLASSES]
    columns = min(3, len(models))
    rows = -(-len(models) // columns)
    figure, axes = panels(rows, columns, 0.5 + 0.19 * len(shown), sharex=True, sharey=True)
    for panel in axes[len(models) :]:
        panel.remove()
    for panel, model in zip(axes, models, strict=False):
        look = looks[model.name]
        for evaluation, face in (("SA", "white"), (robust, look.color)):
            accuracies, intervals = zip(
                *(found[model.name, evaluation, k] for k in shown), strict=True
            )
            low, high = zip(*intervals, strict=True)
            heights = range(len(shown))
            panel.hlines(heights, _percent(low), _percent(high), look.color, linewidth=1)
            panel.plot(_percent(accuracies), heights, "o", color=look.color, markerfacecolor=face)
        panel.set_title(model.label("adv"))
        panel.set_yticks(range(len(shown)), [names[k] for k in shown])
        panel.set_xlim(0, 100)
        panel.yaxis.set_tick_params(length=0)
    for panel in axes[len(models) - columns : len(models)]:
        panel.set_xlabel("Accuracy, %")
        panel.xaxis.set_tick_params(labelbottom=True)
    marks = [
        Line2D([], [], linestyle="", color=INK, marker="o", markerfacecolor="white", label="SA"),
        Line2D([], [], linestyle="", color=INK, marker="o", label=robust),
    ]
    legend(figure, {}, marks)
    return figure


def _in_class(model: ModelRecords, evaluation: str, members: Any) -> tuple[float, Interval]:
    branch, n = model.branch("adv"), int(members.sum())
    accuracy = mean(float(correct[members].mean()) for correct in model.correct(evaluation, branch))
    return accuracy, wilson(accuracy * n, n)


def gradients(content: dict[str, Any], looks: Looks) -> Figure:
    """Returns the gradient diagnostics: one panel per metric, over the stages from input to output.

    Bars are 95 % intervals. Branches of a run share its color and differ in line style.

    Args:
        content: Content of a file that ``robustnorm diagnose`` wrote.
        looks: Looks of the report's models; other runs get unused ones.
    """
    figure, axes = panels(1, 2, 2.4)
    metrics = {
        "std_of_norms": ("Standard deviation of gradient norms", "std_interval"),
        "mean_cosine": ("Mean pairwise cosine similarity", "cosine_interval"),
    }
    runs = list(dict.fromkeys(row["run"] for row in content["rows"]))
    branches = list(dict.fromkeys(row["branch"] for row in content["rows"]))
    spare = iter([look for name, look in looks.items() if name not in runs])
    drawn = {run: looks.get(run) or next(spare, Look(INK, INK, "o")) for run in runs}
    dashes = dict(zip(branches, itertools.cycle(("-", "--", ":", "-.")), strict=False))
    stages, models = content["stages"], list(dict.fromkeys(row["model"] for row in content["rows"]))
    for panel, (metric, (title, interval)) in zip(axes, metrics.items(), strict=True):
        for number, model in enumerate(models):
            rows = [row for row in content["rows"] if row["model"] == model]
            bounds = [shown_interval(row, interval) or (row[metric], row[metric]) for row in rows]
            look = drawn[rows[0]["run"]]
            # Shifted, so that the bars of a stage do not hide each other.
            shift = 0.08 * (number - (len(models) - 1) / 2)
            panel.errorbar(
                [stages.index(row["stage"]) + shift for row in rows],
                [row[metric] for row in rows],
                yerr=[
                    [row[metric] - low for row, (low, _) in zip(rows, bounds, strict=True)],
                    [high - row[metric] for row, (_, high) in zip(rows, bounds, strict=True)],
                ],
                color=look.color,
                marker=look.marker,
                linestyle=dashes[rows[0]["branch"]],
                elinewidth=0.9,
            )
        panel.set_title(title)
        panel.set_xticks(range(len(stages)), stages)
        panel.set_ylim(bottom=min(0, panel.get_ylim()[0]))
    lines = [
        Line2D([], [], color=INK, linestyle=dashes[branch], label=branch)
        for branch in branches
        if branch is not None
    ]
    legend(figure, drawn, lines)
    return figure

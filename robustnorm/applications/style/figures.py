"""Figure 7 with an analysis of its content loss, and Figure 8."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from torch import Tensor

from robustnorm.applications.style.results import NAMES, Row
from robustnorm.evaluation.statistics import student
from robustnorm.reporting.drawing import INK, PALETTE, Look, legend, panels
from robustnorm.reporting.sections import Drawing

LOOKS = {
    name: Look(*colors, marker)
    for name, colors, marker in zip(NAMES.values(), PALETTE, "osD^v", strict=False)
}
# Weight of the past in the moving average of the training curves, for each point of a curve.
SMOOTHING = 0.9
# A picture of Figure 8: content, style, and each row's output, (3, H, W) in [0, 1].
Painted = tuple[Tensor, Tensor, dict[str, Tensor]]


def training(rows: Sequence[Row]) -> Drawing:
    """Returns Figure 7 (a): the training losses."""
    every = rows[0].records[0]["config"]["log_every"]
    names = ", ".join(row.name for row in rows)
    return Drawing(
        "figure7-training",
        f"Figure 7 (a): training losses. Faint: the first seed, means over {every} steps; strong: "
        f"mean over seeds of an exponential moving average (weight {SMOOTHING} for the past).",
        f"Content and style loss in training against the steps for {names}.",
        partial(_training, rows),
    )


def _training(rows: Sequence[Row]) -> Figure:
    figure, axes = panels(1, 2, 2.5)
    for panel, column, title in zip(axes, (1, 2), ("Content loss", "Style loss"), strict=True):
        for row in rows:
            curves = [np.array(record["curve"]) for record in row.records]
            steps, color = curves[0][:, 0], LOOKS[row.name].color
            panel.plot(steps, curves[0][:, column], color=color, linewidth=0.5, alpha=0.3)
            smooth = np.mean([moving_average(curve[:, column]) for curve in curves], axis=0)
            panel.plot(steps, smooth, color=color)
        panel.set_title(title)
        panel.set_xlabel("Step")
        # The losses of the first steps, from random weights, would dwarf all others.
        tops = [np.percentile(np.asarray(line.get_ydata()), 97) for line in panel.lines]
        panel.set_ylim(0, 1.2 * max(tops))
    legend(figure, {row.name: LOOKS[row.name]._replace(marker="") for row in rows})
    _name_setting(figure, rows)
    return figure


def moving_average(values: np.ndarray) -> np.ndarray:
    """Returns the exponential moving average, with bias correction at the beginning."""
    averaged, weight, total = [], 0.0, 0.0
    for value in values:
        total = SMOOTHING * total + (1 - SMOOTHING) * value
        weight = SMOOTHING * weight + (1 - SMOOTHING)
        averaged.append(total / weight)
    return np.array(averaged)


def validation(rows: Sequence[Row]) -> Drawing:
    """Returns Figure 7 (b): the validation losses, and an analysis of them."""
    names = ", ".join(row.name for row in rows)
    return Drawing(
        "figure7-validation",
        "Figure 7 (b): validation losses on held-out content and styles. Below: how well the "
        "content is kept, regardless of scale, and the weight that moves the target. Lines: means "
        "over seeds; bands: 95 % intervals.",
        f"Validation losses, structure and mean weight against the steps for {names}.",
        partial(_validation, rows),
    )


def _validation(rows: Sequence[Row]) -> Figure:
    figure, axes = panels(2, 2, 2.1, sharex=True)
    shown = {
        "content": "Content loss, as reported",
        "style": "Style loss",
        "structure": "Structure: 0 equal, 2 unrelated",
        "gamma": "Mean weight γ before the style",
    }
    for panel, (measure, title) in zip(axes, shown.items(), strict=True):
        for row in rows:
            _band(panel, row, measure)
        panel.set_title(title)
    for panel in axes[2:]:
        panel.set_xlabel("Step")
    axes[3].axhline(1, color=INK, linewidth=0.8, linestyle=":")
    plain = Line2D([], [], color=INK, linewidth=0.8, linestyle=":", label="AdaIN's weight")
    legend(figure, {row.name: LOOKS[row.name] for row in rows}, [plain])
    _name_setting(figure, rows)
    return figure


def _band(panel: Axes, row: Row, measure: str) -> None:
    steps = [entry["step"] for entry in row.records[0]["validation"]]
    columns = list(
        zip(*([e[measure] for e in record["validation"]] for record in row.records), strict=True)
    )
    look = LOOKS[row.name]
    panel.plot(
        steps, [np.mean(column) for column in columns], color=look.color, marker=look.marker,
        markevery=max(1, len(steps) // 6),
    )  # fmt: skip
    intervals = [student(column) for column in columns]
    known = [interval for interval in intervals if interval is not None]
    if len(known) == len(steps):
        low, high = zip(*known, strict=True)
        panel.fill_between(steps, low, high, color=look.color, alpha=0.15, linewidth=0)


def grid(rows: Sequence[Row], painted: Sequence[Painted], seed: int) -> Drawing:
    """Returns Figure 8: content, style and the output of each row."""
    return Drawing(
        "figure8",
        f"Figure 8: held-out styles, painted by the networks of seed {seed}. The pictures are 1.5 "
        "times as large as those of training.",
        f"A grid of pictures: style, content, then the outputs of {', '.join(painted[0][2])}.",
        partial(_grid, rows, painted, f"seed {seed}"),
    )


def _grid(rows: Sequence[Row], painted: Sequence[Painted], seeds: str) -> Figure:
    columns = ["Style", "Content", *(name.replace(", ", ",\n") for name in painted[0][2])]
    figure, axes = panels(len(painted), len(columns), 1.22)
    for i, (content, style, outputs) in enumerate(painted):
        for j, picture in enumerate([style, content, *outputs.values()]):
            panel = axes[i * len(columns) + j]
            panel.imshow(picture.permute(1, 2, 0).numpy(), interpolation="none")
            panel.set_axis_off()
            if i == 0:
                panel.set_title(columns[j])
    _name_setting(figure, rows, seeds)
    return figure


def _name_setting(figure: Figure, rows: Sequence[Row], seeds: str | None = None) -> None:
    """Writes the setting below a figure, so that it is visible wherever the figure is shown."""
    record, most = rows[0].records[0], max(len(row.seeds) for row in rows)
    seeds = seeds or f"{most} {'seed' if most == 1 else 'seeds'}"
    figure.supxlabel(
        f"{record['encoder']['name']} up to {record['encoder']['layer']}; "
        f"{record['dataset']['content']['name']}; {record['step']:,} steps; {seeds}",
        fontsize=7,
        x=0.01,
        horizontalalignment="left",
    )

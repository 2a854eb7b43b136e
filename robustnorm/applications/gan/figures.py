"""Figures 2 and 3 and grids of images, made from records."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from statistics import mean

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from robustnorm.applications.gan.gradient_tables import COSINE, QUANTITIES, stage_values
from robustnorm.applications.gan.record import GanRecord, compared_pairs
from robustnorm.applications.gan.tables import (
    NETWORKS,
    NORMS,
    group_runs,
    measure_names,
    model_name,
)
from robustnorm.evaluation.statistics import Interval, student
from robustnorm.reporting.drawing import PALETTE, Look, legend, panels
from robustnorm.reporting.sections import Drawing

_WINDOWS = 40
LOOKS = {
    name: Look(*PALETTE[index], marker)
    for name, index, marker in zip(NORMS.values(), (0, 3), "os", strict=True)
}


def figure3(records: Sequence[GanRecord]) -> Drawing:
    """Returns losses and scores against the steps, one row per GAN."""
    distance, score = measure_names(records[0])
    return Drawing(
        "figure3",
        "Figure 3: the generator's loss (Eq. 6; means over a fortieth of the steps) and the "
        "measures of its running mean, against the steps. Thin: one seed; thick: mean over seeds.",
        f"Generator loss, {score} and {distance} against the steps with CCBN and SaBN.",
        partial(_figure3, records),
    )


def figure2(records: Sequence[GanRecord]) -> list[Drawing]:
    """Returns the comparison of gradients at the last kept step, one figure per GAN."""
    drawings = []
    for network, name in NETWORKS.items():
        found = compared_pairs(records, network)
        if not found:
            continue
        step = found[0][0].gradients[-1].step
        drawings.append(
            Drawing(
                f"figure2-{network}",
                f"Figure 2 for {name}, step {step:,}: standard deviation over the classes of the "
                "gradients' norms, relative to their mean and absolute, and mean cosine of the "
                "gradients, over the stages from latent vector to image. Means over "
                f"{len(found)} seeds; bars: 95 %, Student's. Above: single samples; below: class "
                "batches.",
                f"Standard deviation and cosine of the classes' gradients by stage of {name}.",
                partial(_figure2, found, step),
            )
        )
    return drawings


def image_grids(
    records: Sequence[GanRecord], images: dict[tuple[str, str], NDArray[np.uint8]]
) -> Drawing:
    """Returns generated images, one panel per model.

    Args:
        records: Records, for the names of the classes.
        images: Picture (H, W, channels) by network and norm, with one class per column.
    """
    classes = ", ".join(records[0].dataset["classes"])
    return Drawing(
        "images",
        f"Generated images after the last step, without selection: one class per column "
        f"({classes}), one latent vector per row.",
        "Grids of generated images, one for each model.",
        partial(_grids, images),
    )


def _figure3(records: Sequence[GanRecord]) -> Figure:
    grouped = group_runs(records)
    networks = list(dict.fromkeys(network for network, _ in grouped))
    distance, score = measure_names(records[0])
    figure, axes = panels(len(networks), 3, 2.1, sharex=True)
    for row, network in enumerate(networks):
        loss, scores, distances = axes[3 * row : 3 * row + 3]
        for norm, name in NORMS.items():
            found = grouped.get((network, norm), [])
            curves = {
                loss: [_smoothed(r.losses) for r in found],
                scores: [[(e["step"], e["score"]) for e in r.measured] for r in found],
                distances: [[(e["step"], e["distance"]) for e in r.measured] for r in found],
            }
            for panel, lines in curves.items():
                for line in lines:
                    panel.plot(*zip(*line, strict=True), color=LOOKS[name].color, lw=0.5, alpha=0.4)
                if lines:
                    steps = [step for step, _ in lines[0]]
                    means = [mean(v for _, v in at) for at in zip(*lines, strict=True)]
                    panel.plot(steps, means, color=LOOKS[name].color)
        distances.set_ylim(bottom=0)
        loss.set_ylabel(NETWORKS[network])
    for panel, title in zip(axes, ("Generator's loss", score, distance), strict=False):
        panel.set_title(title)
    for panel in axes[-3:]:
        panel.set_xlabel("Steps of the generator")
    legend(figure, LOOKS)
    return figure


def _smoothed(losses: Sequence[dict[str, float]]) -> list[tuple[float, float]]:
    """Returns (step, generator loss) averaged over at most _WINDOWS windows."""
    length = -(-len(losses) // _WINDOWS)
    parts = [losses[start : start + length] for start in range(0, len(losses), length)]
    return [(part[-1]["step"], mean(entry["generator"] for entry in part)) for part in parts]


def _figure2(found: Sequence[tuple[GanRecord, GanRecord]], step: int) -> Figure:
    entries = [n for n, entry in enumerate(found[0][0].gradients) if entry.step == step]
    figure, axes = panels(len(entries), len(QUANTITIES), 2.1, sharex=True)
    for row, entry in enumerate(entries):
        stages = found[0][0].gradients[entry].stages
        for column, quantity in enumerate(QUANTITIES):
            panel = axes[row * len(QUANTITIES) + column]
            sides = [stage_values(found, entry, number, quantity) for number in range(len(stages))]
            for side, (name, look) in enumerate(LOOKS.items()):
                means = [mean(each[side]) for each in sides]
                bounds = [
                    student(each[side]) or Interval(m, m)
                    for each, m in zip(sides, means, strict=True)
                ]
                # Shifted, so that the bars of a stage do not hide each other.
                panel.errorbar(
                    [number + 0.12 * (side - 0.5) for number in range(len(stages))],
                    means,
                    yerr=[
                        [m - limits.low for m, limits in zip(means, bounds, strict=True)],
                        [limits.high - m for m, limits in zip(means, bounds, strict=True)],
                    ],
                    color=look.color,
                    marker=look.marker,
                    elinewidth=0.9,
                    label=name,
                )
            if row == 0:
                panel.set_title(quantity)
            panel.set_xticks(
                range(len(stages)), [stage.stage for stage in stages], rotation=30, ha="right"
            )
            panel.set_ylim(bottom=0 if quantity != COSINE else min(0, panel.get_ylim()[0]))
    legend(figure, LOOKS)
    return figure


def _grids(images: dict[tuple[str, str], NDArray[np.uint8]]) -> Figure:
    rows = -(-len(images) // 2)
    figure, axes = panels(rows, 2, 2.4)
    for panel, (key, picture) in zip(axes, images.items(), strict=False):
        shown = picture if picture.shape[2] == 3 else picture[:, :, 0]
        panel.imshow(shown, cmap="gray", vmin=0, vmax=255, interpolation="nearest")
        panel.set_title(model_name(*key))
    for panel in axes:
        panel.set_axis_off()
    return figure

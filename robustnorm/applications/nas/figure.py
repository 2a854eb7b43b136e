"""Figure of the searches against their steps: ground truth, expected accuracy, skip mass."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from robustnorm.applications.nas.benchmark import set_statistics
from robustnorm.applications.nas.comparison import HEADLINE, NAMES, Searched
from robustnorm.applications.nas.readout import Readout, read
from robustnorm.reporting.drawing import INK, PALETTE, Look, legend, panels
from robustnorm.reporting.sections import Drawing

_MARKERS = "osD^"
LOOKS = {
    name: Look(*colors, marker)
    for name, colors, marker in zip(NAMES.values(), PALETTE, _MARKERS, strict=False)
}


def curves(searched: Sequence[Searched]) -> Drawing:
    """Returns the figure of the searches from ``group_by_norm``."""
    return Drawing(
        "search",
        "The searches against their steps. Thin: one seed; thick: mean over seeds. Dotted: a "
        "random cell (its mean accuracy on CIFAR-100; a fifth of the mass). Above: ground truth on "
        "CIFAR-100 of the cell with the largest alpha, which jumps. Middle: the expected accuracy "
        "over all cells. Below: the probability that alpha gives the skip connection.",
        "Ground truth, expected accuracy and skip mass against the steps for "
        f"{', '.join(one.name for one in searched)}.",
        partial(_draw, searched),
    )


def _draw(searched: Sequence[Searched]) -> Figure:
    figure, axes = panels(3, 1, 1.9, sharex=True)
    random = 100 * set_statistics(HEADLINE).mean
    shown: list[tuple[str, Callable[[Readout], float], float]] = [
        ("Ground truth, %", lambda readout: 100 * readout.truth[HEADLINE], random),
        ("E[accuracy], %", lambda readout: 100 * readout.expected[HEADLINE], random),
        ("Skip mass", lambda readout: readout.skip_mass, 0.2),
    ]
    history = {
        one.name: [[read(entry.array) for entry in r.history] for r in one.records]
        for one in searched
    }
    steps = [entry.step for entry in searched[0].records[0].history]
    for panel, (label, value, reference) in zip(axes, shown, strict=True):
        for name, readouts in history.items():
            values = np.array([[value(readout) for readout in each] for each in readouts])
            color = LOOKS[name].color
            panel.plot(steps, values.T, color=color, linewidth=0.6, alpha=0.35)
            panel.plot(
                steps,
                values.mean(axis=0),
                color=color,
                marker=LOOKS[name].marker,
                markevery=max(1, len(steps) // 10),
            )
        panel.axhline(reference, color=INK, linewidth=0.8, linestyle=":")
        panel.set_ylabel(label)
    axes[-1].set_xlabel("Step")
    random_line = Line2D([], [], color=INK, linewidth=0.8, linestyle=":", label="random cell")
    legend(figure, {name: LOOKS[name] for name in history}, [random_line])
    return figure

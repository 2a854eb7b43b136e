"""Gradient diagnostics as a table, a plot and a JSON file."""

from __future__ import annotations

import json
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from robustnorm.evaluation.gradients import StageDiversity
from robustnorm.files import write_atomically
from robustnorm.reporting.render import Table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_TITLES = {
    "branches": "Gradients of the branches, stage by stage",
    "classes": "Gradients of the classes through each branch, stage by stage",
}
_NOTES = (
    "Std of norms: standard deviation, over the groups compared, of the L2 norms of the gradients "
    "of their mean cross-entropy in the stage's shared weights (convolutions and the classifier): "
    "0 when all pull equally hard. Read it beside the mean norm, whose scale it has.",
    "Mean cosine: of the pairs of those gradients (Gong et al., Eq. 4 and 5): 1 when all pull the "
    "same way, 0 at right angles; of n gradients never below -1 / (n - 1).",
    "Means over the batches, with Student's 95 % intervals over the choice of the batches, not "
    "over seeds. Small groups have noisy gradients: compare only numbers of one setting.",
)
# Okabe and Ito's colours without yellow: told apart by the colour-blind, and legible on white.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")


def gradient_result(
    kind: str, models: dict[str, list[StageDiversity]], setting: str
) -> dict[str, Any]:
    """Returns a comparison as JSON values.

    Args:
        kind: What the groups are, ``"branches"`` or ``"classes"``.
        models: Name to the stages, the same ones for every model.
        setting: Images, checkpoint and attack, in words.

    Returns:
        ``schema``, ``title``, ``kind``, ``models``, ``stages``, ``setting``, and ``rows``, one for
        each model and stage: ``model``, and the attributes of ``StageDiversity``.
    """
    return {
        "schema": 1,
        "title": _TITLES[kind],
        "kind": kind,
        "models": list(models),
        "stages": [stage.stage for stage in next(iter(models.values()))],
        "rows": [
            {"model": model} | stage._asdict()
            for model, stages in models.items()
            for stage in stages
        ],
        "setting": setting,
    }


def gradient_table(result: dict[str, Any]) -> Table:
    """Returns the table of a ``gradient_result``."""
    rows = [
        (
            row["model"],
            row["stage"],
            f"{row['std_of_norms']:.4f}",
            _interval(row["std_interval"], 4),
            f"{row['mean_norm']:.4f}",
            f"{row['mean_cosine']:.3f}",
            _interval(row["cosine_interval"], 3),
        )
        for row in result["rows"]
    ]
    return Table(
        name=f"gradients-{result['kind']}",
        title=result["title"],
        columns=(
            "Model",
            "Stage",
            "Std of norms",
            "95 % interval",
            "Mean norm",
            "Mean cosine",
            "95 % interval",
        ),
        rows=list(rows),
        notes=[result["setting"], *_NOTES],
    )


def gradient_figure(result: dict[str, Any]) -> Figure:
    """Returns both measures over the stages, a line a model, with the intervals as bars.

    A run keeps its colour whatever the branch; its branches differ in line and marker.

    Raises:
        ImportError: When matplotlib is not installed.
    """
    require_matplotlib()
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.4), layout="constrained")
    runs: dict[str, int] = {}
    for column, (measure, interval, label) in enumerate(
        (
            ("std_of_norms", "std_interval", "Std of gradient norms"),
            ("mean_cosine", "cosine_interval", "Mean pairwise cosine"),
        )
    ):
        axes = figure.add_subplot(1, 2, column + 1)
        for number, model in enumerate(result["models"]):
            run, _, branch = model.partition(" (")
            rows = [row for row in result["rows"] if row["model"] == model]
            values = [row[measure] for row in rows]
            bounds = [row[interval] or (row[measure], row[measure]) for row in rows]
            dashed = branch not in ("", "clean)")
            axes.errorbar(
                # Side by side, so that the bars of one stage do not hide each other.
                [i + 0.06 * (number - (len(result["models"]) - 1) / 2) for i in range(len(rows))],
                values,
                yerr=[
                    [value - low for value, (low, _) in zip(values, bounds, strict=True)],
                    [high - value for value, (_, high) in zip(values, bounds, strict=True)],
                ],
                color=_COLOURS[runs.setdefault(run, len(runs)) % len(_COLOURS)],
                linestyle="--" if dashed else "-",
                marker="s" if dashed else "o",
                markersize=4,
                linewidth=1.5,
                capsize=2,
                label=model,
            )
        axes.set_xticks(range(len(result["stages"])), result["stages"])
        axes.set_ylabel(label)
        axes.grid(axis="y", color="0.9")
        axes.spines[["top", "right"]].set_visible(False)
        if measure == "std_of_norms":
            axes.set_ylim(bottom=0)
    figure.suptitle(result["title"])
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=3)
    return figure


def write_gradients(result: dict[str, Any], stem: Path) -> list[Path]:
    """Writes ``stem`` with .json, .svg and .png; the same result gives the same bytes.

    Raises:
        ImportError: When matplotlib is not installed.
    """
    figure = gradient_figure(result)
    from matplotlib import rc_context

    stem.parent.mkdir(parents=True, exist_ok=True)
    paths = [stem.with_name(f"{stem.name}.{suffix}") for suffix in ("json", "svg", "png")]
    write_atomically(paths[0], (json.dumps(result, indent=1, allow_nan=False) + "\n").encode())
    with rc_context({"svg.hashsalt": "robustnorm"}):
        figure.savefig(paths[1], metadata={"Date": None})
    figure.savefig(paths[2], dpi=150)
    return paths


def require_matplotlib() -> None:
    """Raises an ImportError that says what to install unless matplotlib is there."""
    try:
        import_module("matplotlib")
    except ImportError as error:
        raise ImportError(
            'plots need matplotlib: pip install matplotlib, or pip install "robustnorm[report]"'
        ) from error


def _interval(bounds: tuple[float, float] | None, digits: int) -> str | None:
    return bounds and f"[{bounds[0]:.{digits}f}, {bounds[1]:.{digits}f}]"

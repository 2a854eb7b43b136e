"""Gradient diagnostics as JSON values and as a table."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from robustnorm.evaluation.diversity import STAGE, StageDiversity
from robustnorm.evaluation.statistics import Interval
from robustnorm.records.record import RecordError
from robustnorm.reporting.render import Table, bracketed
from robustnorm.system.sealed import read_sealed
from robustnorm.system.structure import check_structure

if TYPE_CHECKING:
    from robustnorm.studies.diagnosis import Diagnosis

_TITLES = {
    "branches": "Gradients of the branches, stage by stage",
    "classes": "Gradients of the classes through each branch, stage by stage",
}
_NOTES = (
    "Std of norms: each group's gradient is that of its mean cross-entropy with respect to the "
    "stage's shared weights (convolutions and the classifier); this is the standard deviation of "
    "the gradients' L2 norms over the groups, 0 when all are equally long. Compare it with the "
    "mean norm, which has the same scale.",
    "Mean cosine: mean over the pairs of these gradients (Gong et al., Eq. 4 and 5): 1 when all "
    "have the same direction, 0 at right angles; for n gradients at least -1 / (n - 1).",
    "Means over the batches, with Student's 95 % intervals over the choice of the batches, not "
    "over seeds. Small groups have noisy gradients: compare only numbers of one setting.",
)


_STRUCTURE = {
    "schema": int,
    **dict.fromkeys(("title", "kind", "setting"), str),
    **{name: [str] for name in ("models", "stages")},
    "rows": [{"model": str, "run": str, "branch": (str, None), **STAGE}],
    "checkpoints?": {"*": {"sha256": str, "run?": str, "*": object}},
    # Where the numbers come from; pages do not show this.
    **{f"{name}?": object for name in ("dataset", "versions", "device")},
}


def gradient_results(diagnoses: dict[str, Diagnosis], setting: str) -> list[dict[str, Any]]:
    """Returns the comparisons of the branches and of the classes as JSON values.

    Args:
        diagnoses: Diagnosis by name of the run; all with the same stages.
        setting: Description of images, checkpoint and attack.

    Returns:
        Two dictionaries with ``schema``, ``title``, ``kind``, ``models``, ``stages``, ``setting``
        and ``rows``. There is a row for each model and stage, with ``model``, its ``run``, its
        ``branch`` (or None) and the attributes of ``StageDiversity``.
    """
    kinds: dict[str, list[tuple[str, str | None, list[StageDiversity]]]] = {
        "branches": [(run, None, found.branches) for run, found in diagnoses.items()],
        "classes": [
            (run, branch, stages)
            for run, found in diagnoses.items()
            for branch, stages in found.classes.items()
        ],
    }
    return [
        {
            "schema": 1,
            "title": _TITLES[kind],
            "kind": kind,
            "models": [_label(run, branch) for run, branch, _ in compared],
            "stages": [stage.stage for stage in compared[0][2]],
            "rows": [
                {"model": _label(run, branch), "run": run, "branch": branch} | stage._asdict()
                for run, branch, stages in compared
                for stage in stages
            ],
            "setting": setting,
        }
        for kind, compared in kinds.items()
    ]


def read_gradients(path: Path) -> dict[str, Any]:
    """Reads one result of ``gradient_results`` from its file.

    Raises:
        RecordError: When the file does not hold such a result.
    """
    try:
        content = read_sealed(path)
        check_structure(content, _STRUCTURE)
        if content["schema"] != 1:
            raise ValueError(f"schema 1 is required, got {content['schema']}")
        for row in content["rows"]:
            if row["model"] not in content["models"] or row["stage"] not in content["stages"]:
                raise ValueError(f"unknown model or stage: {row['model']}, {row['stage']}")
            for name in ("std_interval", "cosine_interval"):
                row[name] = row[name] and Interval(*map(float, row[name]))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RecordError(f"{path} is not a gradient diagnosis: {error}; remove it") from error
    return content


def gradient_table(result: dict[str, Any]) -> Table:
    """Returns the table of one result of ``gradient_results``.

    Its notes name the runs, if the result has their ``checkpoints``: models have no seeds here.
    """
    runs = [f"{of['run']} ({m})" for m, of in result.get("checkpoints", {}).items() if "run" in of]
    rows = [
        (
            row["model"],
            row["stage"],
            f"{row['std_of_norms']:.4f}",
            bracketed(shown_interval(row, "std_interval"), 4),
            f"{row['mean_norm']:.4f}",
            f"{row['mean_cosine']:.3f}",
            bracketed(shown_interval(row, "cosine_interval"), 3),
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
        notes=[result["setting"], *[f"Runs: {', '.join(runs)}."] * bool(runs), *_NOTES],
    )


def shown_interval(row: dict[str, Any], name: str) -> Interval | None:
    """Returns an interval of a row, as far as the quantity can lie in it.

    Args:
        row: A row of a result.
        name: "std_interval" or "cosine_interval".
    """
    least, most = (0.0, math.inf) if name == "std_interval" else (-1.0, 1.0)
    limits = row[name]
    return limits and Interval(max(least, limits[0]), min(most, limits[1]))


def _label(run: str, branch: str | None) -> str:
    return run if branch is None else f"{run} ({branch})"

"""Table, plot and files of gradient diagnostics whose values are known."""

import json
import sys

import pytest

from robustnorm.evaluation.gradients import StageDiversity
from robustnorm.evaluation.statistics import Interval
from robustnorm.reporting.gradients import (
    gradient_figure,
    gradient_result,
    gradient_table,
    write_gradients,
)
from robustnorm.reporting.render import to_text


def make_result(interval=True):
    def stage(name, std, cosine):
        std_interval = Interval(std - 0.01, std + 0.02) if interval else None
        cosine_interval = Interval(cosine - 0.1, cosine + 0.3) if interval else None
        return StageDiversity(name, std, 2.0, cosine, std_interval, cosine_interval)

    models = {
        f"{run} ({branch})": [stage("conv1", 0.1 + shift, 0.5), stage("fc", 0.2 + shift, -0.25)]
        for shift, run in enumerate(("auxbn-seed0", "saauxbn-seed0"))
        for branch in ("clean", "adv")
    }
    return gradient_result("classes", models, "n = 60 images")


def test_result_holds_a_row_for_each_model_and_stage():
    result = make_result()
    assert (result["schema"], result["kind"], result["stages"]) == (1, "classes", ["conv1", "fc"])
    assert len(result["rows"]) == 4 * 2
    assert result["rows"][1] == {
        "model": "auxbn-seed0 (clean)",
        "stage": "fc",
        "std_of_norms": 0.2,
        "mean_norm": 2.0,
        "mean_cosine": -0.25,
        "std_interval": pytest.approx((0.19, 0.22)),
        "cosine_interval": pytest.approx((-0.35, 0.05)),
    }


def test_table_prints_numbers_not_percent():
    shown = to_text([gradient_table(make_result())])
    assert "auxbn-seed0 (clean)    fc               0.2000  [0.1900, 0.2200]" in shown
    assert "2.0000         -0.250  [-0.350, 0.050]" in shown
    assert "n = 60 images" in shown


def test_table_of_one_batch_has_no_intervals():
    table = gradient_table(make_result(interval=False))
    assert {(row[3], row[6]) for row in table.rows} == {(None, None)}


def test_figure_draws_every_value_and_a_run_in_one_color():
    figure = gradient_figure(make_result())
    norms, cosines = figure.axes
    lines = [container.lines[0] for container in norms.containers]
    assert [list(line.get_ydata()) for line in lines] == [
        [0.1, 0.2], [0.1, 0.2], [1.1, 1.2], [1.1, 1.2],
    ]  # fmt: skip
    colors, styles = [[getattr(line, f"get_{what}")() for line in lines] for what in ("c", "ls")]
    assert colors[0] == colors[1] != colors[2] == colors[3]
    assert styles == ["-", "--"] * 2
    assert list(cosines.containers[0].lines[0].get_ydata()) == [0.5, -0.25]
    bars = cosines.containers[0].lines[2][0].get_segments()
    assert [y for bar in bars for y in bar[:, 1]] == pytest.approx([0.4, 0.8, -0.35, 0.05])


def test_files_are_the_same_bytes_every_time(tmp_path):
    result = make_result(interval=False)
    first = write_gradients(result, tmp_path / "a" / "classes")
    assert [path.name for path in first] == ["classes.json", "classes.svg", "classes.png"]
    again = write_gradients(result, tmp_path / "b" / "classes")
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in again]
    assert json.loads(first[0].read_text()) == result


def test_matplotlib_that_is_missing_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ImportError, match=r'pip install "robustnorm\[report\]"'):
        gradient_figure(make_result())

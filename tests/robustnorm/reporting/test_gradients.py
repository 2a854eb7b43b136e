"""Table, plot and file of gradient diagnostics whose values are known."""

import json

import pytest

from robustnorm.evaluation.diversity import StageDiversity
from robustnorm.evaluation.statistics import Interval
from robustnorm.records.record import RecordError
from robustnorm.reporting import drawing, figures
from robustnorm.reporting.gradients import gradient_results, gradient_table, read_gradients
from robustnorm.reporting.model_records import ModelRecords
from robustnorm.reporting.render import to_text
from robustnorm.studies.diagnosis import Diagnosis


def make_results(interval=True):
    def stages(shift):
        made = []
        for name, std, cosine in (("conv1", 0.1 + shift, 0.5), ("fc", 0.2 + shift, -0.25)):
            std_interval = Interval(std - 0.01, std + 0.02) if interval else None
            cosine_interval = Interval(cosine - 0.1, cosine + 0.3) if interval else None
            made.append(StageDiversity(name, std, 2.0, cosine, std_interval, cosine_interval))
        return made

    diagnoses = {
        run: Diagnosis(stages(shift), {"clean": stages(shift + 3), "adv": stages(shift + 4)})
        for shift, run in enumerate(("AuxBN", "SaAuxBN"))
    }
    return gradient_results(diagnoses, "n = 60 images")


def test_results_hold_a_row_for_each_model_and_stage():
    branches, classes = make_results()
    assert (branches["schema"], branches["kind"], classes["kind"]) == (1, "branches", "classes")
    assert branches["stages"] == classes["stages"] == ["conv1", "fc"]
    assert branches["models"] == ["AuxBN", "SaAuxBN"]
    assert classes["models"] == [
        f"{run} ({branch})" for run in branches["models"] for branch in ("clean", "adv")
    ]
    assert len(classes["rows"]) == 4 * 2
    assert classes["rows"][3] == {
        "model": "AuxBN (adv)",
        "run": "AuxBN",
        "branch": "adv",
        "stage": "fc",
        "std_of_norms": 4.2,
        "mean_norm": 2.0,
        "mean_cosine": -0.25,
        "std_interval": pytest.approx((4.19, 4.22)),
        "cosine_interval": pytest.approx((-0.35, 0.05)),
    }
    assert branches["rows"][0]["branch"] is None


def test_table_prints_numbers_not_percent():
    shown = to_text([gradient_table(make_results()[0])])
    assert "AuxBN    fc               0.2000  [0.1900, 0.2200]" in shown
    assert "2.0000         -0.250  [-0.350, 0.050]" in shown
    assert "n = 60 images" in shown


@pytest.mark.parametrize("run", [{}, {"run": "auxbn-seed2"}])
def test_table_names_the_runs_where_they_are_known(tmp_path, run):
    """A page of several seeds shows networks of one; the setting's seed is that of the attack."""
    path = tmp_path / "result.json"
    checkpoints = {"AuxBN": {"sha256": "ab", "epoch": 6} | run}
    path.write_text(json.dumps(make_results()[0] | {"checkpoints": checkpoints}))
    notes = gradient_table(read_gradients(path)).notes
    assert ("Runs: auxbn-seed2 (AuxBN)." in notes) == bool(run)


def test_table_of_one_batch_has_no_intervals():
    table = gradient_table(make_results(interval=False)[1])
    assert {(row[3], row[6]) for row in table.rows} == {(None, None)}


def test_figure_draws_every_value_and_a_run_in_one_color():
    looks = drawing.looks([ModelRecords(norm, True, []) for norm in ("auxbn", "saauxbn")])
    norms, cosines = figures.gradients(make_results()[1], looks).axes
    lines = [container.lines[0] for container in norms.containers]
    drawn = [y for line in lines for y in line.get_ydata()]
    assert drawn == pytest.approx([3.1, 3.2, 4.1, 4.2, 4.1, 4.2, 5.1, 5.2])
    assert [line.get_color() for line in lines] == [
        looks[run].color for run in ("AuxBN", "AuxBN", "SaAuxBN", "SaAuxBN")
    ]
    assert [line.get_linestyle() for line in lines] == ["-", "--"] * 2
    assert list(cosines.containers[0].lines[0].get_ydata()) == [0.5, -0.25]
    bars = cosines.containers[0].lines[2][0].get_segments()
    assert [y for bar in bars for y in bar[:, 1]] == pytest.approx([0.4, 0.8, -0.35, 0.05])


def test_figure_of_runs_that_the_report_does_not_know_tells_them_apart():
    looks = drawing.looks([ModelRecords(norm, True, []) for norm in ("bn", "modenorm")])
    norms, _ = figures.gradients(make_results(interval=False)[0], looks).axes
    assert len({container.lines[0].get_color() for container in norms.containers}) == 2


@pytest.mark.parametrize("interval", [True, False])
def test_file_gives_back_what_was_written(tmp_path, interval):
    for result in make_results(interval):
        path = tmp_path / "result.json"
        path.write_text(json.dumps(result))
        assert read_gradients(path) == result


@pytest.mark.parametrize(
    "change",
    [
        {"schema": 2},
        {"rows": [{"model": "AuxBN"}]},
        {"stages": ["conv1"]},
        {"models": ["SaAuxBN"]},
        {"rows": None},
    ],
)
def test_file_of_another_form_is_named(tmp_path, change):
    path = tmp_path / "result.json"
    path.write_text(json.dumps(make_results()[0] | change))
    with pytest.raises(RecordError, match=r"result\.json is not a gradient diagnosis"):
        read_gradients(path)


def test_intervals_end_where_the_quantity_does():
    branches, _ = make_results()
    wide = {"std_interval": Interval(-0.5, 0.7), "cosine_interval": Interval(-1.4, 1.2)}
    branches["rows"] = [branches["rows"][0] | wide]
    (row,) = gradient_table(branches).rows
    assert (row[3], row[6]) == ("[0.0000, 0.7000]", "[-1.000, 1.000]")

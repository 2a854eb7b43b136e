"""The runs of a sweep, and what it refuses before any work."""

import pytest

from robustnorm import cli
from robustnorm.settings.parsing import read_config
from robustnorm.settings.sweep import SweepSettings, sweep_plans


def test_plans_are_norms_and_control_times_seeds_of_each_config():
    settings = SweepSettings(
        configs=["digits", "cifar10"], settings={"width": 8}, norms=("auxbn",), seeds=(0, 3)
    )
    found = sweep_plans(settings)
    assert [plan.evaluations[""].name for plan in found] == ["digits", "cifar10"]
    for plan in found:
        names = [run.run for run in plan.all_runs()]
        assert names == ["auxbn-seed0", "bn-plain-seed0", "auxbn-seed3", "bn-plain-seed3"]
        assert {run.width for run in plan.runs} == {8}


def test_plans_are_read_as_train_reads_them():
    [plan] = sweep_plans(SweepSettings(configs=["digits"], norms=("bn",), control=False))
    assert plan.runs[0] == read_config("digits", {"norm": "bn"})


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "one or more different training configs"),
        (["digits", "digits"], "one or more different training configs"),
        (["digits", "cifar10", "--settings.name=x"], "different names, got x, x"),
        (["digits", "--settings.seed=1"], "settings cannot have seed"),
        (["digits", "--settings.widht=1"], "did you mean 'width'"),
        (["digits", "--norms=[auxbm]"], "auxbn"),
        (["digits", "--seeds=[]"], "at least one seed"),
        (["digits", "--workers=-1"], "workers must be at least 0"),
        (["digits", "--engine=submitit"], "workers must be at least 1 with engine submitit"),
        (["digits", "--threads=0"], "threads must be at least 1"),
        (["digits", "--engine=slurm"], "engine"),
        (["no-such"], "unknown config 'no-such'"),
    ],
)
def test_sweep_refuses_settings_before_any_work(words, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["sweep", *words]) == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())

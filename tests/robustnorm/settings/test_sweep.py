"""The runs of a sweep, and what it refuses before any work."""

import shlex
from dataclasses import replace

import pytest
import yaml

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


def test_places_are_those_of_the_sweep_then_its_settings_then_each_config(tmp_path):
    of_file = {"data": "digits", "data_root": "a", "device": "b", "output": "c", "reports": "d"}
    path = tmp_path / "own.yaml"
    path.write_text(yaml.safe_dump(of_file))

    def places(**changes):
        [plan] = sweep_plans(SweepSettings(configs=[str(path)], **changes))
        assert {run.output for run in plan.runs} == {plan.evaluations[""].output}
        return {name: getattr(plan.evaluations[""], name) for name in of_file}

    assert places() == of_file
    assert places(settings={"output": "set"}) == of_file | {"output": "set"}
    given = {"data": "cifar10", "output": "checkpoints"}  # the latter is also the default
    assert places(settings={"reports": "set"}, **given) == of_file | given | {"reports": "set"}


def test_train_command_is_the_sweep_with_one_config_and_norm():
    words = ["digits", "cifar10", "--norms=[bn]", "--settings={width: 8, protocol: it's}"]
    _, settings, _ = cli.parse(["sweep", *words, "--seeds=0,1", "--control=false", "--output=o o"])
    program, *typed = shlex.split(settings.train_command("cifar10").replace("{norm}", "auxbn"))
    assert program == "robustnorm"
    _, again, _ = cli.parse(typed)
    assert again == replace(settings, configs=["cifar10"], norms=("auxbn",))


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
        (["digits", "--seeds=[3,5,3]"], "seeds of the sweep has 3 more than once"),
        (["digits", "--norms=[bn,bn]"], "norms of the sweep has bn more than once"),
        (
            ["digits", "--output=x", "--settings.output=y"],
            "output of the sweep cannot be in settings too; give it once",
        ),
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

"""The command sweep: trains, evaluates, writes the files of eval, and reports failures."""

import json
import logging
from pathlib import Path

import pytest
from sweep_jobs import SETTINGS

from robustnorm import cli
from robustnorm.work import evaluate as module
from robustnorm.work import jobs

WORDS = ["digits", "--norms=[bn,auxbn]", "--control=false", "--device=cpu"]
SMALL = {"test_limit": 60, "attacks": [], "worst": False}


def settings(**changes):
    values = {key: value for key, value in (SETTINGS | SMALL | changes).items() if key != "device"}
    return f"--settings={json.dumps(values)}"


def evaluate():
    options = {key: value for key, value in (SETTINGS | SMALL).items() if key != "attacks"}
    return cli.main(["eval", "--config=digits", *(f"--{k}={v}" for k, v in options.items())])


@pytest.fixture(autouse=True)
def place(typed, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def test_sweep_leaves_nothing_for_eval_to_do(capsys, monkeypatch):
    assert cli.main(["sweep", *WORDS, settings(), "--workers=2"]) == 0
    tables = capsys.readouterr().out
    assert {path.name for path in Path("checkpoints/digits").iterdir()} == {
        "auxbn-seed0",
        "bn-seed0",
    }
    assert not Path("reports/digits/jobs").exists()
    monkeypatch.setattr(module, "evaluate", None)
    assert evaluate() == 0
    found = capsys.readouterr().out
    train = "make train NORM=modenorm CONFIG="  # names the config as the user did
    assert found.partition(train)[0] == tables.partition(train)[0]
    assert "AuxBN (adv)" in tables


def test_sweep_goes_on_where_it_was_and_repeats_nothing(monkeypatch, caplog):
    assert cli.main(["sweep", *WORDS, settings()]) == 0
    monkeypatch.setattr(jobs, "train_run", None)
    monkeypatch.setattr(jobs, "attack_chunk", None)
    monkeypatch.setattr(jobs, "evaluate_run", None)
    caplog.clear()
    with caplog.at_level(logging.INFO, "robustnorm"):
        assert cli.main(["sweep", *WORDS, settings()]) == 0
    assert sum("verdicts" in line for line in caplog.messages) == 2


def test_sweep_that_was_killed_beside_its_records_leaves_no_jobs(monkeypatch):
    """Results of jobs stayed for ever when the record was there before they were removed."""
    with monkeypatch.context() as killed:
        killed.setattr(module, "_remove", lambda _: None)
        assert cli.main(["sweep", *WORDS, settings()]) == 0
    assert list(Path("reports/digits/jobs").rglob("*.journal"))
    assert evaluate() == 0
    assert not Path("reports/digits/jobs").exists()


def test_sweep_tells_failed_jobs_by_name_and_does_the_others(monkeypatch, capsys):
    attack_chunk = jobs.attack_chunk

    def fails_on_adv(attacked, *arguments, **options):
        if attacked[0].name == "adv":
            raise ZeroDivisionError("nobody foresaw this")
        return attack_chunk(attacked, *arguments, **options)

    monkeypatch.setattr(jobs, "attack_chunk", fails_on_adv)
    assert cli.main(["sweep", *WORDS, settings(worst=True)]) == 1
    error = capsys.readouterr().err
    assert "2 jobs failed;" in error
    for attack in ("pgd", "worst"):
        assert f"- {attack} on adv of digits auxbn-seed0, images " in error
    assert "nobody foresaw this" in error
    assert "BN " in Path("reports/digits/tables.md").read_text()
    records = [path.name for path in Path("reports/digits/records").glob("*.json")]
    assert records == ["bn-seed0-best.json"]


def test_sweep_evaluates_what_was_trained_when_a_training_fails(monkeypatch, capsys):
    train_run = jobs.train_run

    def fails_on_auxbn(config, should_stop):
        if config.norm == "auxbn":
            raise module.UsageError("the loss diverged")
        train_run(config, should_stop=should_stop)

    monkeypatch.setattr(jobs, "train_run", fails_on_auxbn)
    assert cli.main(["sweep", *WORDS, settings()]) == 1
    assert "- train digits auxbn-seed0\nthe loss diverged" in capsys.readouterr().err
    assert Path("reports/digits/records/bn-seed0-best.json").exists()


def test_sweep_asks_for_the_packages_of_attacks_before_any_work(monkeypatch, capsys):
    from robustnorm.attacks import pyautoattack

    def missing():
        raise ImportError("attack autoattack needs the extra peers")

    monkeypatch.setattr(pyautoattack, "installed", missing)
    assert cli.main(["sweep", *WORDS, settings(attacks=["autoattack"])]) == 2
    assert "extra peers" in capsys.readouterr().err
    assert not Path("checkpoints").exists()

"""The command sweep: trains, evaluates, writes the files of eval, and reports failures."""

import json
import logging
import shutil
from pathlib import Path

import numpy as np
import pytest
from sweep_jobs import SETTINGS, make_record_job

from robustnorm import cli
from robustnorm.records.journal import ChunkVerdict, Journal, Key
from robustnorm.system.errors import UsageError
from robustnorm.system.source import versions
from robustnorm.system.stopping import Stopped
from robustnorm.work import evaluate_run as module
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
    before, missing, train = tables.partition("ModeNorm is not trained yet: ")
    assert found.partition(missing)[0] == before
    assert train.startswith("robustnorm sweep digits --device cpu")
    assert "AuxBN (adv)" in tables


def test_sweep_without_norms_evaluates_what_exists(trained, monkeypatch, capsys):
    monkeypatch.setattr(jobs, "train_run", None)
    nothing = ["sweep", "digits", "--norms=[]", "--control=false", "--device=cpu", settings()]
    assert cli.main(nothing) == 0
    assert "AuxBN (adv)" in capsys.readouterr().out
    Path("reports/digits/tables.md").unlink()
    copy = Path("checkpoints/digits/bn-seed0")
    shutil.copytree("checkpoints/digits/auxbn-seed0", copy)
    copy.joinpath("best.json").write_text("{")
    assert cli.main(nothing) == 1
    assert "- record of digits bn-seed0\n" in capsys.readouterr().err
    assert "AuxBN (adv)" in Path("reports/digits/tables.md").read_text()


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
            raise UsageError("the loss diverged")
        train_run(config, should_stop=should_stop)

    monkeypatch.setattr(jobs, "train_run", fails_on_auxbn)
    assert cli.main(["sweep", *WORDS, settings()]) == 1
    assert "- train digits auxbn-seed0\nthe loss diverged" in capsys.readouterr().err
    assert Path("reports/digits/records/bn-seed0-best.json").exists()


@pytest.mark.parametrize(
    ("damaged", "changes", "job", "reason"),
    [
        ("last.json", {}, "train digits auxbn-seed0", "last.json"),
        ("best.json", {}, "record of digits auxbn-seed0", "best.json"),
        (None, {"epochs": 2}, "train digits auxbn-seed0", "(epochs: 1 there, 2 here)"),
    ],
)
def test_sweep_does_the_others_when_a_run_cannot_be_used(
    trained, damaged, changes, job, reason, capsys
):
    if damaged is not None:
        Path("checkpoints/digits/auxbn-seed0", damaged).write_text("{")
    assert cli.main(["sweep", *WORDS, settings(**changes)]) == 1
    error = capsys.readouterr().err
    told = error[error.index("1 job failed;") :].splitlines()
    assert told[1] == f"- {job}"
    assert reason in told[2]
    assert len(told) == 3
    assert "BN " in Path("reports/digits/tables.md").read_text()
    records = [path.name for path in Path("reports/digits/records").glob("*.json")]
    assert records == ["bn-seed0-best.json"]


def test_sweep_tells_once_that_results_are_of_other_versions(trained, capsys):
    record = make_record_job(**SMALL)
    key = Key("none", "final", "clean", "clean")
    for job in record.attacks:
        older = Journal(job.path, job.key, versions() | {"torch": "2.9.1"})
        older.add(job.number, {key: ChunkVerdict(*[np.ones(len(job.image_ids), bool)] * 2)})
    assert cli.main(["sweep", *WORDS, settings()]) == 1
    error = capsys.readouterr().err
    assert error.count(f"- {jobs.PGD} on ") == len(record.attacks) > 1
    assert error.count("a result was begun with others (torch 2.9.1, here ") == 1
    assert Path("reports/digits/records/bn-seed0-best.json").exists()


def test_stopped_sweep_tells_what_is_left(trained, monkeypatch, capsys):
    def stopped(*_, **__):
        raise Stopped("1 jobs are left")

    monkeypatch.setattr(jobs, "attack_chunk", stopped)
    norm = "--norms=[auxbn]"
    assert cli.main(["sweep", *WORDS, norm, settings()]) == 143
    assert "step 2 of 3, attacks: 1 jobs are left; the same" in capsys.readouterr().err


def test_sweep_logs_verdicts_by_folder(caplog):
    words = ["--norms=[bn]", "--control=true", settings()]
    with caplog.at_level(logging.INFO, "robustnorm"):
        assert cli.main(["sweep", *WORDS, *words]) == 0
    told = [line.partition(":")[0] for line in caplog.messages if "verdicts" in line]
    assert told == [f"checkpoints/digits/{run}-seed0" for run in ("bn-plain", "bn")]


def test_sweep_asks_for_the_packages_of_attacks_before_any_work(monkeypatch, capsys):
    from robustnorm.attacks import pyautoattack

    def missing():
        raise ImportError("attack autoattack needs the extra peers")

    monkeypatch.setattr(pyautoattack, "installed", missing)
    assert cli.main(["sweep", *WORDS, settings(attacks=["autoattack"])]) == 2
    assert "extra peers" in capsys.readouterr().err
    assert not Path("checkpoints").exists()

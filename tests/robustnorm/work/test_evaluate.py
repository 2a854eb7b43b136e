"""Runs evaluated while they are still trained, and again with other settings."""

import itertools
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from small_runs import TRAINING

from robustnorm.records.images import hashes
from robustnorm.records.record import Record
from robustnorm.reporting.tables import tables
from robustnorm.settings.config import Config
from robustnorm.system.errors import OutOfMemoryError
from robustnorm.work import evaluate_run as module
from robustnorm.work.evaluate import evaluate_records, evaluate_runs
from robustnorm.work.train import train_run

SMALL = Config.from_dict(
    TRAINING | {"name": "small", "norm": "bn", "epochs": 2, "keep_epochs": [1], "device": "cpu"}
)
EVALUATION = replace(
    SMALL, checkpoint="epoch1", test_limit=20, worst=False, checks="none", examples=0
)


def test_record_made_during_training_gets_the_rest_of_its_history(tiny, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    asked = itertools.count(1)
    train_run(SMALL, should_stop=lambda seconds: seconds >= 0 and next(asked) == 3)
    path = Path("reports/small/records/bn-seed0-epoch1.json")
    assert "Training: 1 of 2 epochs (shortened" in evaluate_runs(EVALUATION)
    before = Record.load(path)
    assert [entry["epoch"] for entry in before.history] == [1]
    train_run(SMALL)
    assert "Training: 2 epochs (shortened" in evaluate_runs(EVALUATION)
    after = Record.load(path)
    assert [entry["epoch"] for entry in after.history] == [1, 2]
    assert replace(after, history=before.history) == before  # nothing was evaluated again


@pytest.fixture
def trained(tiny, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    train_run(replace(SMALL, epochs=1, keep_epochs=()))
    return replace(EVALUATION, epochs=1, keep_epochs=(), checkpoint="best")


def test_checks_are_added_to_a_record_without_another_attack(trained, monkeypatch, caplog):
    caplog.set_level("INFO", logger="robustnorm")
    checking = replace(trained, checks="quick")
    (at_once,) = evaluate_records(replace(checking, reports="at-once"))
    (before,) = evaluate_records(trained)
    assert (before.checks, before.curve) == ([], [])
    monkeypatch.setattr(module, "evaluate", None)
    (after,) = evaluate_records(checking)
    assert "bn-seed0-best.json: quick checks added" in caplog.text
    assert (after.checks, after.curve) == (at_once.checks, at_once.curve)
    assert (after.protocol, after.protocol_hash) == (at_once.protocol, at_once.protocol_hash)
    assert after.wall_seconds > before.wall_seconds
    np.testing.assert_equal(after.verdicts, before.verdicts)
    unchanged = {"protocol": {}, "protocol_hash": "", "checks": [], "curve": [], "wall_seconds": 0}
    assert replace(after, **unchanged) == replace(before, **unchanged)
    monkeypatch.setattr(module, "run_checks", None)
    for fewer in (trained, checking):  # they are kept
        assert evaluate_records(fewer)[0].to_json() == after.to_json()


def test_verdicts_of_another_device_are_not_mixed_with_checks_of_this_one(trained):
    (record,) = evaluate_records(trained)
    path = Path("reports/small/records/bn-seed0-best.json")
    replace(record, device="a GPU").save(path)
    (again,) = evaluate_records(replace(trained, checks="quick"))
    assert (again.device, bool(again.checks)) == (record.device, True)
    replace(again, versions=again.versions | {"torch": "2.9.1"}, checks=[]).save(path)
    assert evaluate_records(replace(trained, checks="none"))[0].versions["torch"] == "2.9.1"


def test_evaluation_that_lacks_memory_for_its_checks_continues_without_them(trained, monkeypatch):
    def no_memory(*_, **__):
        raise MemoryError

    monkeypatch.setattr(module, "run_checks", no_memory)
    with pytest.raises(OutOfMemoryError, match="or without them with --checks none"):
        evaluate_records(replace(trained, checks="quick"))
    monkeypatch.setattr("robustnorm.evaluation.evaluate.attack_chunk", None)
    (record,) = evaluate_records(trained)
    assert (len(record.verdicts), record.checks) == (5, [])


def test_evaluations_with_other_settings_are_kept_and_found_again(trained, monkeypatch, caplog):
    caplog.set_level("INFO", logger="robustnorm")
    longer, folder = replace(trained, attacks=("fgsm",), keep_images=True), Path("reports/small")
    (long,) = evaluate_records(longer)
    images = hashes(folder / "records/bn-seed0-best.images")
    (short,) = evaluate_records(replace(trained, test_limit=10))
    assert "bn-seed0-best.json has other settings and is kept as" in caplog.text
    (aside,) = (folder / "earlier").glob("*.json")
    assert Record.load(aside).images["files"] == images == hashes(aside.with_suffix(".images"))
    monkeypatch.setattr(module, "evaluate", None)
    (again,) = evaluate_records(longer)
    assert again.to_json() == long.to_json()
    assert hashes(folder / "records/bn-seed0-best.images") == images
    assert not aside.exists()
    assert evaluate_records(replace(trained, test_limit=10))[0].to_json() == short.to_json()
    assert len(list((folder / "earlier").iterdir())) == 2  # the longer record and its images


def test_record_of_a_network_that_was_trained_again_is_replaced(trained):
    evaluate_records(trained)
    shutil.rmtree("checkpoints")
    train_run(replace(SMALL, epochs=1, keep_epochs=(), learning_rate=0.2))
    (record,) = evaluate_records(replace(trained, learning_rate=0.2, test_limit=10))
    assert record.n == 10
    assert [path.name for path in Path("reports/small/records").iterdir()] == ["bn-seed0-best.json"]
    assert not Path("reports/small/earlier").exists()


def test_interrupted_evaluation_continues_after_one_with_other_settings(trained, monkeypatch):
    def no_memory(*_, **__):
        raise MemoryError

    with monkeypatch.context() as lacking:
        lacking.setattr(module, "run_checks", no_memory)
        with pytest.raises(OutOfMemoryError):
            evaluate_records(replace(trained, checks="quick"))
    (short,) = evaluate_records(replace(trained, test_limit=10))
    monkeypatch.setattr("robustnorm.evaluation.evaluate.attack_chunk", None)
    (record,) = evaluate_records(replace(trained, checks="quick"))
    assert (short.n, record.n, bool(record.checks)) == (10, 20, True)
    assert not list(Path("reports").rglob("*.journal"))


def test_records_with_other_checks_are_compared(trained):
    train_run(replace(SMALL, epochs=1, keep_epochs=(), norm="auxbn"))
    bn, auxbn = sorted(evaluate_records(trained), key=lambda record: record.norm != "bn")
    protocol = bn.protocol | {"checks": "full"}
    assert tables([replace(bn, protocol=protocol), auxbn]) == tables([bn, auxbn])

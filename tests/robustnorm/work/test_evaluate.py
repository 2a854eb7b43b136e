"""Runs evaluated while they are still trained."""

import itertools
from dataclasses import replace
from pathlib import Path

from small_runs import TRAINING

from robustnorm.records.record import Record
from robustnorm.settings.config import Config
from robustnorm.work.evaluate import evaluate_runs
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

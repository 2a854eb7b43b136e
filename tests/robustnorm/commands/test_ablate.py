import csv
from pathlib import Path

import pytest
import yaml

from robustnorm import cli
from robustnorm.evaluation import chunks
from robustnorm.records.record import Record

SMALL = {
    "data": "digits",
    "network": "tiny",
    "train_limit": 32,
    "validation": 20,
    "width": 4,
    "epochs": 1,
    "batch_size": 32,
    "train_steps": 1,
    "validation_steps": 1,
    "test_limit": 20,
    "checks": "none",
    "device": "cpu",
}


def test_ablate_trains_the_grid_and_continues_where_it_was(
    tiny, short_worst, tmp_path, monkeypatch, capsys
):
    (tmp_path / "grid.yaml").write_text(yaml.safe_dump(SMALL))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(chunks, "CHUNK", 20)  # no padding of 20 images to 100
    assert cli.main(("ablate", "--config", "grid.yaml")) == 0
    first = capsys.readouterr()
    assert "Table 4" in first.out
    rows = list(csv.DictReader(Path("reports/grid/ablation.csv").read_text().splitlines()))
    assert len(rows) == 4 * 2
    record = Record.load(Path("reports/grid/records/sabn-seed0-best.json"))
    (row,) = (
        r for r in rows if r["Evaluation"] == "SA, adv branch" and r["Statistics"] == "shared"
    )
    accuracy = record.find("none", "final", "adv", "adv").accuracy
    assert row["Sandwich affine %"] == f"{100 * accuracy:.2f}"
    assert cli.main(("ablate", "--config", "grid.yaml")) == 0
    second = capsys.readouterr()
    assert second.out == first.out
    assert second.err.count("already trained") == second.err.count("already evaluated") == 6


@pytest.mark.parametrize("command", ["ablate", "reproduce", "sweep"])
def test_norms_are_not_compared_as_controls(command, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "plain.yaml").write_text("adversarial: false")
    words = ["plain.yaml"] if command == "sweep" else ["--config", "plain.yaml"]
    assert cli.main((command, *words)) == 2
    error = capsys.readouterr().err
    assert "adversarial must be true" in error
    assert error.count("\n") == 1
    assert not (tmp_path / "checkpoints").exists()

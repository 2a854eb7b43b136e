"""The referee's table on a small network: ratios, agreement, and what is kept."""

from pathlib import Path

import pytest
import torch

from robustnorm import cli
from robustnorm.commands import referee as module

SMALL = (
    *("--config", "digits", "--epochs", "1", "--width", "4", "--train_limit", "64"),
    *("--validation", "32", "--train_steps", "1", "--validation_steps", "1"),
    *("--batch_size", "32", "--device", "cpu"),
)


def test_referee_compares_both_attacks_and_keeps_what_it_found(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(module, "installed", lambda: None)
    asked = []

    def gentle(model, images, labels, **options):
        """Leaves images alone, after two passes: what worst breaks, it alone breaks."""
        with torch.no_grad():
            model(images), model(images)
        asked.append(options)
        return images

    monkeypatch.setattr(module, "autoattack", gentle)
    assert cli.main(["train", *SMALL, "--norm", "auxbn"]) == 0
    words = ["referee", *SMALL, "--test_limit", "30"]
    assert cli.main(words) == 0
    shown = capsys.readouterr().out
    assert "n = 30 of 500 test images" in shown
    assert {options["epsilon"] for options in asked} == {3 / 16}
    assert len(asked) == 2
    text = Path("reports/digits/referee.md").read_text()
    for branch in ("clean", "adv"):
        (line,) = [line for line in text.splitlines() if f"auxbn-seed0 ({branch})" in line]
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        same, ours, theirs = int(cells[4].split(" of ")[0]), int(cells[5]), int(cells[6])
        assert (same + ours, theirs) == (30, 0)
        assert float(cells[2]) - float(cells[1]) == pytest.approx(100 * ours / 30, abs=0.02)
        assert cells[11] == "60"
    assert cli.main(words) == 0
    assert capsys.readouterr().out == shown
    assert len(asked) == 2  # nothing is attacked again


def test_referee_needs_a_trained_run(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(module, "installed", lambda: None)
    assert cli.main(["referee", "--config", "digits"]) == 2
    assert "needs trained runs" in capsys.readouterr().err

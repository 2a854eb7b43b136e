"""The referee's table on a small network: ratios, agreement, and what is kept."""

from pathlib import Path

import numpy as np
import pytest
import torch

from robustnorm import cli
from robustnorm.commands import referee as module
from robustnorm.records.digests import digest_of_network
from robustnorm.runs import load_model

pytestmark = pytest.mark.usefixtures("short_worst")

SMALL = (
    *("--config", "digits", "--epochs", "1", "--width", "4", "--train_limit", "64"),
    *("--validation", "32", "--train_steps", "1", "--validation_steps", "1"),
    *("--batch_size", "32", "--device", "cpu"),
)


@pytest.fixture
def asked(tmp_path, monkeypatch):
    """Returns the options of AutoAttack's calls; it is replaced, and so is the working folder."""
    calls = []

    def gentle(model, images, labels, **options):
        """Leaves images alone, after two passes: what worst breaks, it alone breaks."""
        with torch.no_grad():
            model(images), model(images)
        calls.append(options)
        return images

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(module, "installed", lambda: None)
    monkeypatch.setattr(module, "autoattack", gentle)
    return calls


def test_referee_compares_both_attacks_and_keeps_what_it_found(asked, capsys):
    assert cli.main(["train", *SMALL, "--norm", "auxbn"]) == 0
    words = ["referee", *SMALL, "--test_limit", "30"]
    assert cli.main(words) == 0
    shown = capsys.readouterr().out
    assert "n = 30 of 500 test images" in shown
    assert "Checkpoint 'best': auxbn-seed0 of epoch 1." in shown
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


def test_another_comparison_replaces_no_result(asked, tiny, capsys, monkeypatch):
    monkeypatch.setattr(module, "CHUNK", 6)
    words = [*SMALL, "--network", tiny]
    assert cli.main(["train", *words, "--norm", "bn", "--epochs", "2"]) == 0

    def calls_of(*changes):
        before = len(asked)
        assert cli.main(["referee", *words, "--test_limit", "6", *changes]) == 0
        return len(asked) - before

    changes = [(), ("--test_limit", "4"), ("--eval_seed", "1"), ("--eval_precision", "bf16")]
    assert [calls_of(*change) for change in changes] == [1] * 4
    assert [calls_of(*change) for change in changes] == [0] * 4
    # Neither attack depends on these.
    assert calls_of("--serving", "true", "--attacks", "fgsm", "--checks", "full") == 0
    best, last = (digest_of_network(load_model(Path("checkpoints/digits/bn-seed0"), tag)[0])
                  for tag in ("best", "last"))  # fmt: skip
    assert calls_of("--checkpoint", "last") == (best != last)
    assert (
        "Checkpoint 'last': bn-seed0 of epoch 2." in Path("reports/digits/referee.md").read_text()
    )
    assert calls_of() == 0
    assert "made again" not in capsys.readouterr().err


def test_referee_refuses_two_classes_before_any_work(asked, capsys, monkeypatch):
    images = np.random.default_rng(0).integers(256, size=(100, 1, 8, 8), dtype=np.uint8)
    labels = np.arange(100) % 2
    np.savez("two.npz", x_train=images, y_train=labels, x_test=images, y_test=labels)
    words = [*SMALL, "--data", "two.npz"]
    assert cli.main(["train", *words, "--norm", "bn"]) == 0
    monkeypatch.setattr(module, "branches", pytest.fail)
    capsys.readouterr()
    assert cli.main(["referee", *words]) == 2
    assert (
        "AutoAttack, needs at least 4 classes, but checkpoints/digits/bn-seed0 has 2; evaluate it "
        "with robustnorm eval --attacks apgd-ce,square" in capsys.readouterr().err
    )


def test_referee_needs_a_trained_run(asked, capsys):
    assert cli.main(["referee", "--config", "digits"]) == 2
    assert "needs trained runs" in capsys.readouterr().err

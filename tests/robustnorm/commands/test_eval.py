"""The command eval, from trained runs to records and tables."""

import csv
import json
from pathlib import Path

import pytest
import torch
from manifests import rewrite_manifest
from small_runs import refused, run

from robustnorm.records.parts import Check
from robustnorm.records.record import Record
from robustnorm.runs.run import load_model

pytestmark = pytest.mark.usefixtures("small_yaml")


def test_train_then_eval_prints_and_writes_the_tables(capsys, tmp_path):
    for norm in ("bn", "saauxbn"):
        run("train", "--config", "small.yaml", "--norm", norm)
    capsys.readouterr()
    run("eval", "--config", "small.yaml", "--worst", "true")
    shown = capsys.readouterr().out
    reports = tmp_path / "reports" / "small"
    assert "Table 3: standard accuracy, clean branch" in shown
    assert "Table 4" in shown
    assert "RA, worst case" in shown
    assert "Branch matrix" in shown
    assert "n = 60 of 500 test images of scikit-learn digits" in shown
    assert "AuxBN is not trained yet: make train NORM=auxbn CONFIG=small.yaml" in shown
    record = Record.load(reports / "records" / "saauxbn-seed0-best.json")
    row = next(
        row
        for row in csv.DictReader((reports / "table4.csv").read_text().splitlines())
        if row["Model"] == "SaAuxBN (adv)" and row["Evaluation"] == "RA, PGD-20"
    )
    accuracy = record.find("pgd-20", "final", "adv", "adv").accuracy
    assert float(row["Ours %"]) == pytest.approx(100 * accuracy, abs=0.005)  # two decimals
    assert record.n == 60
    assert [example.answer for example in record.examples] == ["clean"] * 8 + ["adv"] * 8
    assert record.config["norm"] == "saauxbn"
    assert not {"data_root", "output", "reports"} & record.config.keys()  # paths of this machine
    assert not list(reports.glob("records/*.journal"))


def test_control_has_a_folder_and_a_row_of_its_own(capsys):
    run("train", "--config", "small.yaml", "--norm", "bn", "--adversarial", "false")
    run("eval", "--config", "small.yaml", "--examples", "0")
    assert Path("checkpoints/small/bn-plain-seed0").is_dir()
    assert "BN, plain (control)" in capsys.readouterr().out
    path = Path("reports/small/records/bn-plain-seed0-best.json")
    assert not Record.load(path).examples
    without = path.read_text()
    capsys.readouterr()
    run("eval", "--config", "small.yaml", "--examples", "2")  # of an existing evaluation
    assert "report.html" not in capsys.readouterr().err
    page = path.parent.parent / "report.html"
    page.write_text("with images")
    assert [each.answer for each in Record.load(path).examples] == ["single"] * 2
    run("eval", "--config", "small.yaml", "--examples", "0")
    assert path.read_text() == without
    assert (
        f"{page} still shows the images from before, until it is made again: robustnorm report "
        "--reports reports --name small\n" in capsys.readouterr().err
    )
    run("eval", "--config", "small.yaml", "--examples", "0")  # nothing changes
    assert "report.html" not in capsys.readouterr().err


def test_reproduce_trains_four_norms_and_a_control(capsys):
    run("reproduce", "--config", "small.yaml", "--epochs", "1")
    shown = capsys.readouterr().out
    for model in ("BN", "ModeNorm", "AuxBN (clean)", "SaAuxBN (clean)", "BN, plain (control)"):
        assert f"SA            {model}" in shown
    assert "not trained yet" not in shown


def test_second_eval_reads_the_records(capsys):
    run("train", "--config", "small.yaml", "--norm", "bn")
    run("eval", "--config", "small.yaml")
    first = capsys.readouterr()
    run("eval", "--config", "small.yaml")
    second = capsys.readouterr()
    assert second.out == first.out
    assert "bn-seed0: already evaluated" in second.err


@pytest.mark.parametrize("change", [("--test_limit", "40"), ("--eval_seed", "1")])
def test_eval_of_another_protocol_evaluates_again(capsys, change):
    run("train", "--config", "small.yaml", "--norm", "bn")
    run("eval", "--config", "small.yaml")
    capsys.readouterr()
    run("eval", "--config", "small.yaml", *change)
    assert "already evaluated" not in capsys.readouterr().err


def test_damaged_record_is_named(capsys, tmp_path):
    run("train", "--config", "small.yaml", "--norm", "bn")
    run("eval", "--config", "small.yaml")
    (path,) = (tmp_path / "reports/small/records").glob("*.json")
    path.write_text("{")
    assert "is not a result record" in refused(capsys, "eval", "--config", "small.yaml", status=5)


def test_eval_without_a_checkpoint_says_how_to_train_one(capsys):
    error = refused(capsys, "eval", "--config", "small.yaml")
    assert "no checkpoint 'best' fits this config under checkpoints/small" in error
    assert "make train NORM=saauxbn CONFIG=small.yaml" in error


def test_eval_leaves_out_a_checkpoint_that_does_not_fit(capsys):
    run("train", "--config", "small.yaml", "--norm", "bn")
    error = refused(capsys, "eval", "--config", "small.yaml", "--width", "8")
    assert "bn-seed0 is left out because its settings differ: width: 4 there, 8 here" in error


def test_eval_takes_a_shortened_run_and_says_so(capsys):
    run("train", "--config", "small.yaml", "--norm", "bn", "--epochs", "1")
    run("eval", "--config", "small.yaml")
    assert "1 epoch (shortened" in capsys.readouterr().out


def test_eval_refuses_a_checkpoint_of_another_dataset(capsys, tmp_path, monkeypatch):
    run("train", "--config", "small.yaml", "--norm", "bn")
    manifest = tmp_path / "checkpoints/small/bn-seed0/best.json"
    dataset = json.loads(manifest.read_text())["dataset"]
    other = {"sha256": "0" * 64, "name": "other digits"}
    rewrite_manifest(manifest, dataset=dataset | other)
    error = refused(capsys, "eval", "--config", "small.yaml")
    assert (
        "was trained on other digits (content 000000000000), but the data given are scikit" in error
    )


def test_keep_epochs_keeps_weights(capsys):
    run("train", "--config", "small.yaml", "--norm", "bn", "--keep_epochs", "[1]")
    run("eval", "--config", "small.yaml", "--checkpoint", "epoch1")
    assert "Checkpoint 'epoch1' of epoch 1." in capsys.readouterr().out


@pytest.mark.parametrize(("verdict", "status"), [("unreliable", 6), ("warn", 0)])
def test_strict_evaluation_shows_its_tables_and_then_tells_that_it_is_unreliable(
    capsys, monkeypatch, verdict, status
):
    from robustnorm.work import evaluate_run

    found = Check("gradients", "single", verdict, 0.0, "of no image", 1)
    monkeypatch.setattr(evaluate_run, "run_checks", lambda *_, **__: ([found], []))
    words = ("--config", "small.yaml", "--checks", "quick")
    run("train", *words, "--norm", "bn", "--strict", "true")  # not one of the run's own settings
    run("eval", *words)
    shown = capsys.readouterr().out
    run("eval", *words, "--strict", "true", status=status)
    assert capsys.readouterr().out == shown


def test_evaluation_uses_fp32_whatever_the_training_precision(capsys):
    run("train", "--config", "small.yaml", "--norm", "bn", "--precision", "bf16")
    run("eval", "--config", "small.yaml", "--precision", "bf16")
    (path,) = Path("reports/small/records").glob("*.json")
    record = Record.load(path)
    assert record.protocol["precision"] == "fp32"
    model, _ = load_model(Path("checkpoints/small/bn-seed0"))
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}


def test_kept_and_transferred_images_are_verified(capsys):
    for norm in ("bn", "auxbn"):
        run("train", "--config", "small.yaml", "--norm", norm, "--epochs", "1")
    words = ("eval", "--config", "small.yaml", "--transfer", "true", "--attacks", "[fgsm]")
    run(*words)
    assert "RA, worst case" in capsys.readouterr().out
    records = Path("reports/small/records")
    record = Record.load(records / "bn-seed0-best.json")
    transfers = [v for v in record.verdicts if v.attack == "transfer:auxbn-seed0"]
    assert {(v.attack_branch, v.score_branch) for v in transfers} == {
        ("clean", "single"),
        ("adv", "single"),
    }
    assert len(record.examples) <= 8
    before = (records / "bn-seed0-best.json").read_bytes()
    run(*words)  # nothing is done again
    assert (records / "bn-seed0-best.json").read_bytes() == before
    capsys.readouterr()
    for norm in ("bn", "auxbn"):
        run("verify", str(records / f"{norm}-seed0-best.json"))
        assert "Everything holds." in capsys.readouterr().out
    (file, *_) = (records / "bn-seed0-best.images").glob("*.safetensors")
    file.write_bytes(file.read_bytes()[:-1])
    run("verify", str(records / "bn-seed0-best.json"), status=1)
    assert "files of images: " in capsys.readouterr().out
    run("verify", str(records / "none.json"), status=2)


def test_l2_is_recorded_as_the_threat_model(capsys):
    words = ("--config", "small.yaml", "--threat_model", "l2", "--epsilon", "3/2", "--epochs", "1")
    run("train", *words, "--norm", "bn")
    run("eval", *words)
    assert (
        Record.load(Path("reports/small/records/bn-seed0-best.json")).protocol["threat_model"]
        == "l2"
    )
    assert "PGD, L2, epsilon 3/2" in capsys.readouterr().out

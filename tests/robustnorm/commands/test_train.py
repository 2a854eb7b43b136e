"""The command train: what a run's folder holds, kills, and what is refused."""

import json
import sys
import time
from pathlib import Path

import pytest
from processes import command, kill
from small_runs import refused, run

from robustnorm.runs.run import load_model

pytestmark = pytest.mark.usefixtures("small_yaml")


def tensors(folder, tag="last"):
    file = json.loads((Path(folder) / f"{tag}.json").read_text())["file"]
    return (Path(folder) / file).read_bytes()


def test_run_folder_holds_settings_that_are_accepted_back(capsys):
    run("train", "--config", "small.yaml", "--norm", "bn", "--seed", "3", "--weight_decay", "0.001")
    folder = Path("checkpoints/small/bn-seed3")
    before = tensors(folder)
    run("train", "--config", str(folder / "config.yaml"))
    assert "bn-seed3: already trained" in capsys.readouterr().err
    assert tensors(folder) == before


def test_metrics_are_written_a_line_an_epoch():
    run("train", "--config", "small.yaml", "--norm", "auxbn")
    lines = Path("checkpoints/small/auxbn-seed0/metrics.jsonl").read_text().splitlines()
    records = [json.loads(line) for line in lines]
    assert [record["epoch"] for record in records] == [1, 2]
    assert set(records[0]["validation"]) == {"clean", "adv"}
    assert {"clean_loss", "adv_loss", "images_per_second", "learning_rate"} <= records[0].keys()


def test_tensorboard_files_are_written_when_asked_for():
    run("train", "--config", "small.yaml", "--norm", "bn", "--tensorboard", "true")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator("checkpoints/small/bn-seed0")
    events.Reload()
    lines = Path("checkpoints/small/bn-seed0/metrics.jsonl").read_text().splitlines()
    expected = [json.loads(line)["clean_loss"] for line in lines]
    assert [scalar.value for scalar in events.Scalars("loss/clean")] == pytest.approx(expected)


def test_tensorboard_that_is_missing_names_the_extra(capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    words = ("train", "--config", "small.yaml", "--norm", "bn", "--tensorboard", "true")
    assert 'pip install "robustnorm[track]"' in refused(capsys, *words)


def test_other_settings_in_the_same_folder_are_refused(capsys):
    run("train", "--config", "small.yaml", "--norm", "bn")
    error = refused(capsys, "train", "--config", "small.yaml", "--norm", "bn", "--epochs", "3")
    assert "holds a run with other settings (epochs: 2 there, 3 here)" in error


def test_batch_larger_than_the_data_is_refused(capsys):
    words = ("train", "--config", "small.yaml", "--norm", "bn", "--batch_size", "200")
    assert "a batch of 200 is larger than the 128 training images" in refused(capsys, *words)


def test_device_that_is_not_there_is_refused(capsys):
    words = ("train", "--config", "small.yaml", "--norm", "bn", "--device", "cuda:99")
    assert "device 'cuda:99' cannot be used" in refused(capsys, *words)


def test_diverging_run_names_the_step_the_good_checkpoint_and_what_to_try(capsys):
    words = ("train", "--config", "small.yaml", "--norm", "bn", "--learning_rate", "1e38")
    error = refused(capsys, *words)
    assert "the loss is not finite from step" in error
    assert "--learning_rate" in error


def test_load_model_gives_the_trained_network():
    run("train", "--config", "small.yaml", "--norm", "saauxbn")
    model, manifest = load_model(Path("checkpoints/small/saauxbn-seed0"), "last")
    assert not model.training
    assert manifest["epoch"] == 2
    assert all(parameter.isfinite().all() for parameter in model.parameters())


@pytest.mark.parametrize("norm", ["saauxbn", "modenorm"])
def test_killed_run_continues_to_the_same_end(tmp_path, norm):
    steps = ("--train_steps", "1", "--validation_steps", "1")
    words = ("train", "--config", "small.yaml", "--norm", norm, "--epochs", "10", *steps)
    run(*words, "--output", "whole")
    process = command(*words, "--output", "killed")
    manifest = tmp_path / "killed" / "small" / f"{norm}-seed0" / "last.json"
    while not manifest.exists() and process.is_alive():
        time.sleep(0.001)
    kill(process)
    assert json.loads(manifest.read_text())["epoch"] < 10
    run(*words, "--output", "killed")
    for tag in ("last", "best"):
        assert tensors(tmp_path / f"killed/small/{norm}-seed0", tag) == tensors(
            tmp_path / f"whole/small/{norm}-seed0", tag
        )


def test_interrupted_run_says_that_the_same_command_continues(capsys, monkeypatch):
    from robustnorm.work import train

    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(train, "train_run", interrupt)
    run("train", "--config", "small.yaml", "--norm", "bn", status=130)
    assert "the same command continues" in capsys.readouterr().err


def test_progress_without_a_terminal_is_plain_lines(capfd):
    run("train", "--config", "small.yaml", "--norm", "bn")
    error = capfd.readouterr().err
    lines = error.splitlines()
    assert "\r" not in error
    assert lines[1].startswith("bn-seed0: epoch 1/2  loss clean ")
    assert "img/s" in lines[1]
    assert "left" in lines[1]


@pytest.mark.parametrize("folder", ["output", "reports"])
def test_folder_that_cannot_be_written_ends_in_one_sentence(capsys, tmp_path, folder):
    (tmp_path / "file").touch()
    words = ("reproduce", "--config", "small.yaml", "--epochs", "1", f"--{folder}", "file/x")
    error = refused(capsys, *words, status=4)
    assert "cannot be written: a file is where its folder should be" in error
    assert "Traceback" not in error

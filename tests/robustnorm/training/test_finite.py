"""A step that is not finite: nothing of it stays, it is kept in a file, and the file repeats it."""

import itertools
import json
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from robustnorm import cli
from robustnorm.runs.run import load_model
from robustnorm.training import advprop
from robustnorm.work.train import train_run

SMALL = {
    "data": "digits",
    "train_limit": 128,
    "validation": 20,
    "width": 4,
    "epochs": 2,
    "batch_size": 32,
    "learning_rate": 0.05,
    "epsilon": "3/16",
    "step_size": "3/64",
    "train_steps": 2,
    "validation_steps": 2,
    "device": "cpu",
}
TRAIN = ("train", "--config", "small.yaml", "--norm", "saauxbn")
RUN = Path("checkpoints/small/saauxbn-seed0")


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    (tmp_path / "small.yaml").write_text(yaml.safe_dump(SMALL))
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def gradient_breaks(monkeypatch):
    """Makes one value of the gradient of a step infinite, all losses being finite."""

    def arrange(at):
        norm, calls = advprop.gradient_norm, []

        def broken(model):
            calls.append(1)
            if len(calls) == at:
                next(model.parameters()).grad.view(-1)[0] = torch.inf
            return norm(model)

        monkeypatch.setattr(advprop, "gradient_norm", broken)

    return arrange


def state(output="checkpoints"):
    run = Path(output) / "small/saauxbn-seed0"
    return load_file(run / json.loads((run / "last.json").read_text())["file"])


def diverged(capsys, *words):
    assert cli.main((*TRAIN, *words)) == 2
    error = capsys.readouterr().err
    (file,) = RUN.glob("replay/*.safetensors")
    assert f"'robustnorm replay {file}'" in error
    return error, file


def test_gradient_that_is_not_finite_is_caught_before_the_update(capsys, gradient_breaks):
    gradient_breaks(6)  # the second step of the second epoch
    error, file = diverged(capsys)
    assert "the gradient is not finite since step 2 of epoch 2" in error
    assert f"the checkpoint of epoch 1 in {RUN} is good" in error
    manifest = json.loads((RUN / "last.json").read_text())
    assert manifest["epoch"] == 1
    assert all(value.isfinite().all() for value in state().values() if value.is_floating_point())
    assert file.name == "epoch2-step2.safetensors"


@pytest.mark.parametrize("waits", [False, True])
def test_state_in_the_replay_file_is_the_one_before_the_step(
    capsys, monkeypatch, gradient_breaks, waits
):
    """On a device that is asked now and then, the steps since are taken back."""
    _, config, _ = cli.parse(TRAIN)
    asked = itertools.count(1)
    train_run(config, should_stop=lambda _seconds: next(asked) == 2)
    before = state()
    monkeypatch.setattr(advprop, "reading_waits", lambda _device: waits)
    epoch_batches = advprop.epoch_batches

    def poisoned(*arguments, first_step, **options):
        batches = epoch_batches(*arguments, first_step=first_step, **options)
        for step, batch in enumerate(batches, first_step):
            yield batch._replace(images=batch.images * torch.nan) if step == 2 else batch

    monkeypatch.setattr(advprop, "epoch_batches", poisoned)
    error, file = diverged(capsys)
    assert "the loss is not finite since step 3 of epoch 1" in error
    kept = load_file(file)
    assert all(torch.equal(kept[name], before[name]) for name in before if "random" not in name)
    assert kept["images"].isnan().all()
    assert cli.main(("replay", str(file), "--device", "cpu")) == 0
    told = capsys.readouterr().out
    assert "Step 3 of epoch 1: the loss is not finite, as in the run. It begins with the im" in told


def test_device_that_is_asked_now_and_then_trains_the_same(monkeypatch):
    assert cli.main(TRAIN) == 0
    expected = state()
    monkeypatch.setattr(advprop, "reading_waits", lambda _device: True)
    assert cli.main((*TRAIN, "--output", "other")) == 0
    found = state("other")
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_replay_names_the_first_layer_that_is_not_finite(capsys):
    _, file = diverged(capsys, "--learning_rate", "1e19")
    before = file.read_bytes()
    assert cli.main(("replay", str(file), "--device", "cpu")) == 0
    told = capsys.readouterr().out
    assert "It begins with the output of " in told
    assert "of the attack on branch adv" in told
    assert file.read_bytes() == before


def test_replay_that_comes_to_something_else_says_so(capsys, gradient_breaks):
    gradient_breaks(1)
    _, file = diverged(capsys)
    assert cli.main(("replay", str(file), "--device", "cpu")) == 1
    assert "in the run the gradient was not finite, here all is" in capsys.readouterr().out


@pytest.mark.parametrize("kind", ["text", "checkpoint"])
def test_replay_refuses_another_file(capsys, kind):
    path = Path("file.safetensors")
    if kind == "text":
        path.write_text("<html>")
    else:
        save_file({"a": torch.zeros(1)}, path)
    assert cli.main(("replay", str(path))) == 5
    assert "is not a replay file" in capsys.readouterr().err


def test_training_without_memory_stops_with_what_to_try(capsys, monkeypatch):
    assert cli.main((*TRAIN, "--epochs", "1")) == 0
    attack = advprop.adversarial_images

    def without_memory(model, images, labels, *options):
        if labels.shape == (32,):
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return attack(model, images, labels, *options)

    monkeypatch.setattr(advprop, "adversarial_images", without_memory)
    assert cli.main((*TRAIN, "--output", "other")) == 3
    error = capsys.readouterr().err
    assert "GiB of this process were held" in error
    assert "Try --batch_size 16 or --precision bf16" in error
    model, _ = load_model(RUN, "last")
    assert all(parameter.isfinite().all() for parameter in model.parameters())

"""A step that is not finite is undone, and the layer where it begins is named."""

import copy
import itertools
import json
from pathlib import Path

import pytest
import small_runs
import torch
import yaml
from safetensors.torch import load_file

from robustnorm import cli
from robustnorm.runs.checkpoint import state_tensors
from robustnorm.runs.run import load_model
from robustnorm.training import advprop, losses
from robustnorm.training.finite import FiniteSteps
from robustnorm.training.losses import AdvProp
from robustnorm.training.origin import origin
from robustnorm.work import train as train_module
from robustnorm.work.train import train_run

# A ResNet, whose layers have names.
SMALL = small_runs.SMALL | {"network": "resnet18", "validation": 20}
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
        norm, calls = losses.gradient_norm, []

        def broken(model):
            calls.append(1)
            if len(calls) == at:
                next(model.parameters()).grad.view(-1)[0] = torch.inf
            return norm(model)

        monkeypatch.setattr(losses, "gradient_norm", broken)

    return arrange


def state(output="checkpoints"):
    run = Path(output) / "small/saauxbn-seed0"
    return load_file(run / json.loads((run / "last.json").read_text())["file"])


def diverged(capsys, *words):
    assert cli.main((*TRAIN, *words)) == 2
    (error,) = capsys.readouterr().err.splitlines()[-1:]
    return error


def test_gradient_that_is_not_finite_is_caught_before_the_update(capsys, gradient_breaks):
    gradient_breaks(6)  # the second step of the second epoch
    error = diverged(capsys)
    assert "the gradient is not finite from step 2 of epoch 2" in error
    assert f"the checkpoint of epoch 1 in {RUN} is intact" in error
    manifest = json.loads((RUN / "last.json").read_text())
    assert manifest["epoch"] == 1
    assert all(value.isfinite().all() for value in state().values() if value.is_floating_point())
    assert "; the repeated step is finite" in error


@pytest.mark.parametrize("waits", [False, True])
def test_step_is_taken_back_and_what_was_not_finite_is_named(capsys, monkeypatch, waits):
    """On a device that is checked at intervals, the steps since the last check are undone."""
    _, config, _ = cli.parse(TRAIN)
    asked = itertools.count(1)
    train_run(config, should_stop=lambda seconds: seconds >= 0 and next(asked) == 2)
    before = state()
    monkeypatch.setattr(advprop, "reading_waits", lambda _device: waits)
    epoch_batches = advprop.epoch_batches

    def poisoned(*arguments, first_step, **options):
        batches = epoch_batches(*arguments, first_step=first_step, **options)
        for step, batch in enumerate(batches, first_step):
            yield batch._replace(images=batch.images * torch.nan) if step == 2 else batch

    monkeypatch.setattr(advprop, "epoch_batches", poisoned)
    reached = {}

    def told(model, optimizer, *rest):
        reached.update(copy.deepcopy(state_tensors(model, optimizer)))
        return origin(model, optimizer, *rest)

    monkeypatch.setattr(train_module, "origin", told)
    error = diverged(capsys)
    assert "the loss is not finite from step 3 of epoch 1" in error
    assert "; it begins with the images, before the step;" in error
    assert all(torch.equal(reached[name], before[name]) for name in before if "random" not in name)


def test_device_that_is_asked_now_and_then_trains_the_same(monkeypatch):
    assert cli.main(TRAIN) == 0
    expected = state()
    monkeypatch.setattr(advprop, "reading_waits", lambda _device: True)
    assert cli.main((*TRAIN, "--output", "other")) == 0
    found = state("other")
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_first_layer_that_is_not_finite_is_named(capsys):
    error = diverged(capsys, "--learning_rate", "1e19")
    assert "it begins with the output of " in error
    assert "step 1 of the attack on branch adv" in error


def test_planted_layer_is_the_one_that_is_named(capsys, monkeypatch):
    """The forward of one layer, in one pass of one step, gives infinity."""
    build, calls, third = train_module.build_model, itertools.count(), range(3, 1000, 4)

    def planted(*arguments):
        model = build(*arguments)
        layer = model.layer2[0].conv2
        # A pass tells before training what the network gives. Then a step has two attack steps,
        # a clean and an adversarial pass; the third is clean.
        layer.register_forward_hook(
            lambda _layer, _inputs, output: output * torch.inf if next(calls) in third else None
        )
        return model

    monkeypatch.setattr(train_module, "build_model", planted)
    assert "; it begins with the output of layer2.0.conv2, clean images;" in diverged(capsys)


def test_training_without_memory_stops_with_what_to_try(capsys, monkeypatch):
    assert cli.main((*TRAIN, "--epochs", "1")) == 0
    attack = AdvProp.adversarial_images

    def without_memory(step, images, labels, generator):
        if labels.shape == (32,):
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return attack(step, images, labels, generator)

    monkeypatch.setattr(AdvProp, "adversarial_images", without_memory)
    assert cli.main((*TRAIN, "--output", "other")) == 3
    error = capsys.readouterr().err
    assert "GiB in this process" in error
    assert "Try --batch_size 16 or --precision bf16" in error
    model, _ = load_model(RUN, "last")
    assert all(parameter.isfinite().all() for parameter in model.parameters())


def test_buffer_that_a_forward_replaces_is_taken_back():
    model = torch.nn.Linear(2, 1)
    model.register_buffer("count", torch.tensor(3.0))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    seen = []

    def take_again(first, stop):
        seen.append(model.count.item())
        return range(first, stop)

    steps = FiniteSteps(model, optimizer, 0, take_again, every=2)
    for step in range(2):
        steps.begin(step)
        model.count = model.count + 1
        steps.inspect(step, None, torch.tensor(torch.inf), None, torch.tensor(1.0))
        steps.end()
    assert seen == [3.0]

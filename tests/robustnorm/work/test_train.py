"""A run stopped between two steps and continued, compared with an uninterrupted one."""

import itertools
import json
import random
from dataclasses import replace
from fractions import Fraction

import pytest
from manifests import rewrite_manifest
from safetensors.torch import load_file

from robustnorm.runs.checkpoint import load_checkpoint
from robustnorm.runs.run import find_runs
from robustnorm.settings.config import Config
from robustnorm.work import train as module
from robustnorm.work.train import train_run

# Two steps an epoch, and what a state has to keep: momentum, followed test images, a best epoch.
SMALL = Config(
    name="small",
    norm="saauxbn",
    network="tiny",
    train_limit=64,
    validation=20,
    width=4,
    epochs=2,
    batch_size=32,
    learning_rate=0.05,
    epsilon=Fraction(3, 16),
    step_size=Fraction(3, 64),
    train_steps=2,
    validation_steps=2,
    test_curve=10,
    device="cpu",
)
STEPS = 4
TIMES = {"seconds", "validation_seconds", "images_per_second"}


@pytest.fixture(autouse=True)
def place(tiny, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def stopped_at(step, config):
    """Trains until the given step has been taken, counted from 1."""
    asked = itertools.count(1)
    train_run(config, should_stop=lambda seconds: seconds >= 0 and next(asked) == step)


def tensors(config, tag):
    manifest = load_checkpoint(config.folder, tag).manifest
    return manifest["sha256"], load_file(config.folder / manifest["file"])


def metrics(config):
    lines = (config.folder / "metrics.jsonl").read_text().splitlines()
    return [{k: v for k, v in json.loads(line).items() if k not in TIMES} for line in lines]


@pytest.mark.parametrize("norm", ["bn", "saauxbn"])
def test_run_stopped_at_any_step_ends_as_the_uninterrupted_one(norm):
    whole = replace(SMALL, norm=norm, output="whole")
    train_run(whole)
    for step in range(1, STEPS + 1):
        stopped = replace(whole, output=f"stopped-{step}")
        stopped_at(step, stopped)
        manifest = load_checkpoint(stopped.folder, "last").manifest
        assert (manifest["epoch"], len(manifest["within_epoch"]["losses"])) == (
            (step - 1) // 2,
            (step - 1) % 2 + 1,
        )
        train_run(stopped)
        for tag in ("best", "last"):
            digest, values = tensors(stopped, tag)
            expected_digest, expected = tensors(whole, tag)
            assert values.keys() == expected.keys()
            assert digest == expected_digest  # of all bytes: weights, buffers and momentum
        assert metrics(stopped) == metrics(whole)
        assert "within_epoch" not in load_checkpoint(stopped.folder, "last").manifest


def test_run_stopped_after_every_step_ends_as_the_uninterrupted_one():
    whole, stopped = (replace(SMALL, output=output) for output in ("whole", "stopped"))
    train_run(whole)
    for _ in range(STEPS):
        stopped_at(1, stopped)
    train_run(stopped)
    assert tensors(stopped, "last")[0] == tensors(whole, "last")[0]
    assert metrics(stopped) == metrics(whole)


def test_seconds_of_a_stopped_epoch_are_added_up():
    stopped_at(1, SMALL)
    within = load_checkpoint(SMALL.folder, "last").manifest["within_epoch"]
    rewrite_manifest(SMALL.folder / "last.json", within_epoch=within | {"seconds": 1000.0})
    train_run(SMALL)
    first, second = load_checkpoint(SMALL.folder, "last").manifest["history"]
    assert 1000 < first["seconds"] < 1100
    assert second["seconds"] < 100


def test_state_within_an_epoch_is_not_taken_for_a_checkpoint_to_evaluate():
    config = replace(SMALL, checkpoint="last")
    stopped_at(3, config)
    assert find_runs(config) == []
    train_run(config)
    assert [run.folder for run in find_runs(config)] == [config.folder]


def test_epochs_name_the_device_that_trained_them():
    train_run(SMALL)
    for line in metrics(SMALL):
        assert line["device"].startswith("CPU")


def test_saved_random_states_do_not_follow_from_reading_the_data(monkeypatch):
    """A package that is imported to read data may draw a number, in the first run of a process."""
    train_run(SMALL)
    read = module.load_data

    def read_and_draw(config):
        random.random()
        return read(config)

    monkeypatch.setattr(module, "load_data", read_and_draw)
    train_run(replace(SMALL, name="drawn"))
    assert tensors(SMALL, "last")[0] == tensors(replace(SMALL, name="drawn"), "last")[0]

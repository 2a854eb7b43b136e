import copy
import itertools
import random
import shutil
from collections import namedtuple
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from benchmarks.soak.killing import TINY, steps_saved
from robustnorm.data.dataset import Augmentation, Split
from robustnorm.runs import Run
from robustnorm.runs.checkpoint import load_checkpoint, save_checkpoint
from robustnorm.runs.run import find_runs
from robustnorm.system.errors import DiskError, UsageError
from robustnorm.system.locks import exclusive
from robustnorm.system.source import versions
from robustnorm.training import saving
from robustnorm.training.advprop import train
from robustnorm.training.progress import Position
from robustnorm.training.saving import Saver
from robustnorm.work import train as command
from robustnorm.work.train import train_run

Usage = namedtuple("Usage", "total used free")
# Four steps an epoch, saved after each.
OFTEN = replace(TINY, norm="bn")


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def killed_after(step, config):
    """Trains until the given step, counted from 1, and ends with nothing saved after it."""
    asked = itertools.count(1)

    def kill(seconds):
        if seconds >= 0 and next(asked) == step:
            raise KeyboardInterrupt
        return False

    with pytest.raises(KeyboardInterrupt):
        train_run(config, should_stop=kill)


@pytest.mark.parametrize(("minutes", "saved"), [(0.0, 5), (10.0, 4)])
def test_state_within_an_epoch_is_saved_when_it_is_due(minutes, saved):
    config = replace(OFTEN, save_minutes=minutes)
    killed_after(6, config)
    assert steps_saved(config) == saved


def test_saving_is_due_after_the_minutes_since_the_last_saving(tmp_path, monkeypatch):
    clock = itertools.count(0.0, 59.0)
    monkeypatch.setattr(saving.time, "monotonic", lambda: next(clock))
    model = nn.Linear(1, 1)
    optimizer = torch.optim.SGD(model.parameters())
    saver = Saver(tmp_path, replace(OFTEN, save_minutes=1.0), {}, model, optimizer)
    assert [saver.is_due() for _ in range(2)] == [False, True]
    saver.save_within(Position())
    assert [saver.is_due() for _ in range(2)] == [False, True]


def test_run_continues_with_another_interval_between_savings():
    killed_after(2, OFTEN)
    train_run(replace(OFTEN, save_minutes=10.0))
    assert steps_saved(OFTEN) == 8


def test_state_within_an_epoch_is_not_evaluated():
    config = replace(OFTEN, checkpoint="last")
    killed_after(6, config)
    assert find_runs(config) == []


def test_run_whose_newest_state_is_damaged_continues_from_the_one_before(caplog):
    killed_after(6, OFTEN)
    (OFTEN.folder / "last.json").write_text("{")
    train_run(OFTEN)
    assert "last.json is not a checkpoint manifest; the one before it" in caplog.text
    damaged = load_checkpoint(OFTEN.folder, "last").sha256
    whole = replace(OFTEN, output="whole")
    train_run(whole)
    assert damaged == load_checkpoint(whole.folder, "last").sha256


def test_second_run_in_a_folder_is_refused_before_it_loads_its_data(monkeypatch):
    monkeypatch.setattr(command, "load_data", lambda _: pytest.fail("it was loaded"))
    with (
        exclusive(OFTEN.folder),
        pytest.raises(UsageError, match=r"bn-seed0 is in use by process \d+ on "),
    ):
        train_run(OFTEN)


def test_too_small_a_disk_is_told_before_training(monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(10**6, 0, 50_000))
    with pytest.raises(DiskError, match=r"bn-seed0 needs \d+,\d+ bytes and its disk has 50,000"):
        train_run(OFTEN)
    assert Run.find(OFTEN.folder, "last") is None


def test_bytes_needed_are_what_the_files_take_at_most(monkeypatch):
    most = 0

    def watched(folder, *arguments):
        nonlocal most
        save_checkpoint(folder, *arguments)
        files = [path.stat().st_size for path in folder.iterdir()]
        # While the next "last" is written, it is there besides.
        most = max(most, sum(files) + max(files))

    needed = []
    monkeypatch.setattr(saving, "save_checkpoint", watched)
    monkeypatch.setattr(command, "check_free_space", lambda _, count: needed.append(count))
    # Wide enough for the tensors to count more than their names and the random states.
    config = replace(OFTEN, width=16, epochs=3, keep_epochs=(1, 2))
    train_run(config)
    assert most <= needed[0] < 1.3 * most


def test_training_draws_from_no_global_random_state():
    before = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].copy()
    train_run(replace(OFTEN, norm="modenorm"))
    tensors = load_checkpoint(replace(OFTEN, norm="modenorm").folder, "last").tensors
    assert torch.equal(torch.get_rng_state(), before[0])
    assert random.getstate() == before[1]
    assert np.array_equal(np.random.get_state()[1], before[2])
    train_run(replace(OFTEN, norm="bn"))
    others = load_checkpoint(replace(OFTEN, norm="bn").folder, "last").tensors
    for name in ("random.torch", "random.numpy", "random.python"):
        assert torch.equal(tensors[name], others[name])


class Dropped(nn.Module):
    """A small network that draws from torch's and numpy's global states at each step."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(1, 4, 3, bias=False), nn.BatchNorm2d(4), nn.Dropout(0.5), nn.Flatten()
        )
        self.head = nn.Linear(64, 3)

    def forward(self, images):
        features = self.layers(images)
        if self.training:
            features = features * float(np.random.uniform(0.9, 1.1)) * random.uniform(0.9, 1.1)
        return self.head(features)


DATA = {
    **{"name": "made", "sha256": "ab", "classes": ["a", "b", "c"], "channels": 1},
    **{"mean": [0.5], "std": [0.25], "train_images": 32},
}


def test_network_with_dropout_continues_bit_for_bit(tmp_path):
    config = replace(OFTEN, epochs=2, batch_size=8)
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(256, (32, 1, 6, 6), dtype=torch.uint8, generator=generator)
    split = Split(images, torch.arange(32) % 3)
    start = Dropped()

    def saver(folder):
        model = copy.deepcopy(start)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        return Saver(tmp_path / folder, config, DATA, model, optimizer)

    def run(kept, position=None, **saving):
        for record in train(
            kept.model, split, split, config=config, augmentation=Augmentation(),
            optimizer=kept.optimizer, position=position, **saving,
        ):  # fmt: skip
            kept.save_epoch(record, "here")

    torch.manual_seed(1)
    np.random.seed(1)
    random.seed(1)
    kept = saver("whole")
    kept.folder.mkdir()
    # The folder is copied after the sixth of eight steps; the run goes on and is the reference.
    steps = itertools.count(1)

    def copy_state(position):
        if next(steps) == 6:
            kept.save_within(position)
            shutil.copytree(kept.folder, tmp_path / "stopped")

    run(kept, save_is_due=lambda: True, save=copy_state)
    torch.manual_seed(2)
    np.random.seed(2)
    random.seed(2)
    continued = saver("stopped")
    position = continued.restore(Run.open(continued.folder, "last"))
    assert (position.epoch, position.step) == (1, 2)
    run(continued, position)
    ends = [load_checkpoint(each.folder, "last").sha256 for each in (kept, continued)]
    assert ends[0] == ends[1]  # of all bytes: weights, momentum, random states


def test_training_continued_by_another_version_says_so(monkeypatch, caplog):
    with monkeypatch.context() as older:
        older.setattr(saving, "versions", lambda: versions() | {"torch": "2.9.1"})
        killed_after(3, OFTEN)
    train_run(OFTEN)
    assert "continued by other versions (torch 2.9.1, here " in caplog.text

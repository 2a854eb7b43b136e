import errno
import json
import os
import random
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import torch
from manifests import rewrite_manifest
from torch import nn

from robustnorm.runs import checkpoint as module
from robustnorm.runs.checkpoint import (
    CheckpointError,
    find_checkpoint,
    load_checkpoint,
    restore,
    save_checkpoint,
)
from robustnorm.system.errors import DiskError, UsageError
from robustnorm.system.locks import exclusive

MANIFEST = {"epoch": 3, "config": {"width": 4}, "dataset": {"name": "made"}}


def make(seed=0, steps=2):
    """A small network after some steps of SGD, so that there is momentum."""
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(8, 3))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    for _ in range(steps):
        optimizer.zero_grad()
        model(torch.rand(4, 1, 4, 4)).square().sum().backward()
        optimizer.step()
    return model, optimizer


def equal(first, second):
    return all(
        torch.equal(value, second.state_dict()[name]) for name, value in first.state_dict().items()
    )


def test_checkpoint_round_trips_weights_buffers_and_momentum(tmp_path):
    model, optimizer = make()
    save_checkpoint(tmp_path / "run", "last", model, MANIFEST, optimizer)
    other, other_optimizer = make(seed=1, steps=0)
    loaded = load_checkpoint(tmp_path / "run", "last")
    restore(loaded, other, other_optimizer)
    assert equal(other, model)
    for mine, its in zip(model.parameters(), other.parameters(), strict=True):
        assert torch.equal(
            optimizer.state[mine]["momentum_buffer"], other_optimizer.state[its]["momentum_buffer"]
        )
    assert MANIFEST.items() <= loaded.manifest.items()


def test_same_network_is_told_by_its_weights_and_buffers(tmp_path):
    model, optimizer = make()
    save_checkpoint(tmp_path, "best", model, MANIFEST)
    save_checkpoint(tmp_path, "last", model, MANIFEST, optimizer)
    model(torch.rand(4, 1, 4, 4))  # moves the running statistics only
    save_checkpoint(tmp_path, "epoch2", model, MANIFEST)
    best, last, other = (load_checkpoint(tmp_path, tag) for tag in ("best", "last", "epoch2"))
    assert best.sha256 != last.sha256
    assert best.has_weights_of(last)
    assert last.has_weights_of(best)
    assert not other.has_weights_of(last)


def test_checkpoint_round_trips_what_adam_keeps_of_each_parameter(tmp_path):
    model, _ = make(steps=0)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.1)
    for _ in range(3):
        optimizer.zero_grad()
        model(torch.rand(4, 1, 4, 4)).square().sum().backward()
        optimizer.step()
    save_checkpoint(tmp_path / "run", "last", model, MANIFEST, optimizer)
    other, _ = make(seed=1, steps=0)
    other_optimizer = torch.optim.Adam(other.parameters(), lr=0.1)
    restore(load_checkpoint(tmp_path / "run", "last"), other, other_optimizer)
    batch = torch.rand(4, 1, 4, 4)
    for of, its in ((model, optimizer), (other, other_optimizer)):
        its.zero_grad()
        of(batch).square().sum().backward()
        its.step()  # whose size depends on the moments and on the count of steps
    assert equal(other, model)


def test_save_keeps_two_of_last_one_of_best_and_nothing_else(tmp_path):
    for seed in (0, 1, 2):
        save_checkpoint(tmp_path, "last", make(seed)[0], MANIFEST)
        save_checkpoint(tmp_path, "best", make(seed + 3)[0], MANIFEST)
    assert len(list(tmp_path.glob("last-*.safetensors"))) == 2
    assert len(list(tmp_path.glob("best-*.safetensors"))) == 1
    manifests = {"last.json", "last-previous.json", "best.json"}
    assert {path.name for path in tmp_path.iterdir() if path.suffix != ".safetensors"} == manifests
    other = make(9)[0]
    restore(load_checkpoint(tmp_path, "last"), other)
    assert equal(other, make(2)[0])


@pytest.mark.parametrize("moment", [0, 1, 2])
def test_kill_while_saving_leaves_the_former_checkpoint_whole(tmp_path, monkeypatch, moment):
    for seed in (7, 0):
        save_checkpoint(tmp_path, "last", make(seed)[0], MANIFEST)
    calls = []
    write = module.write_atomically

    def killed(path, data):
        calls.append(path)
        if len(calls) > moment:
            raise KeyboardInterrupt
        write(path, data)

    monkeypatch.setattr(module, "write_atomically", killed)
    with pytest.raises(KeyboardInterrupt):
        save_checkpoint(tmp_path, "last", make(1)[0], MANIFEST)
    other = make(5)[0]
    restore(load_checkpoint(tmp_path, "last"), other)
    assert equal(other, make(0)[0])


def test_missing_checkpoint_is_named(tmp_path):
    assert find_checkpoint(tmp_path, "best") is None
    with pytest.raises(UsageError, match=r"no checkpoint 'best' in"):
        load_checkpoint(tmp_path, "best")


@pytest.mark.parametrize("write", range(3))
def test_full_disk_while_saving_leaves_the_former_checkpoints_whole(tmp_path, monkeypatch, write):
    for seed in (0, 1):
        save_checkpoint(tmp_path, "last", make(seed)[0], MANIFEST | {"seed": seed})
    # Each write syncs its file, then the folder.
    refusals = iter([None, None] * write + [OSError(errno.ENOSPC, "No space left on device")])
    monkeypatch.setattr(os, "fsync", mock.Mock(side_effect=refusals))
    with pytest.raises(DiskError, match=r"last.* cannot be written: the disk is full; .* bytes"):
        save_checkpoint(tmp_path, "last", make(2)[0], MANIFEST | {"seed": 2})
    assert load_checkpoint(tmp_path, "last").manifest["seed"] == 1
    assert not list(tmp_path.glob(".*"))


def change_byte(path, position=-1, mask=1):
    data = bytearray(path.read_bytes())
    data[position] ^= mask
    path.write_bytes(data)


def cut(path):
    path.write_bytes(path.read_bytes()[:-1])


DAMAGES = pytest.mark.parametrize("damage", [change_byte, cut, Path.unlink])


@pytest.fixture
def saved(tmp_path):
    """A run's folder after two savings of "last" and one of "best"."""
    for seed in (0, 1):
        save_checkpoint(tmp_path, "last", make(seed)[0], MANIFEST | {"epoch": seed + 1})
    save_checkpoint(tmp_path, "best", make(1)[0], MANIFEST)
    return tmp_path


def file_of(folder, tag):
    return folder / load_checkpoint(folder, tag).manifest["file"]


@DAMAGES
def test_damaged_tensors_of_last_are_named_and_the_ones_before_are_used(saved, caplog, damage):
    damaged = file_of(saved, "last")
    damage(damaged)
    other = make(5)[0]
    restore(load_checkpoint(saved, "last"), other)
    assert equal(other, make(0)[0])
    assert load_checkpoint(saved, "last").manifest["epoch"] == 1
    (line,) = caplog.messages  # one, though it was read twice
    assert str(damaged) in line
    assert "the one before it, of epoch 1, is used instead" in line


@pytest.mark.parametrize("mask", [1, 32])
def test_change_of_any_byte_of_a_manifest_is_noticed(saved, mask):
    manifest = saved / "last.json"
    whole = manifest.read_bytes()
    for position in range(len(whole)):
        change_byte(manifest, position, mask)
        assert load_checkpoint(saved, "last").manifest["epoch"] == 1, position
        manifest.write_bytes(whole)
    assert load_checkpoint(saved, "last").manifest["epoch"] == 2


@DAMAGES
def test_damaged_best_is_refused_with_the_repair(saved, damage):
    damaged = file_of(saved, "best")
    damage(damaged)
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(saved, "best")
    assert str(damaged) in str(caught.value)
    assert "copy an intact one there, evaluate --checkpoint last, or remove" in str(caught.value)


def test_last_is_refused_when_both_are_damaged(saved):
    for name in ("last.json", "last-previous.json"):
        change_byte(saved / name)
    with pytest.raises(CheckpointError, match=r"last\.json.*; .*last-previous\.json.*; copy"):
        load_checkpoint(saved, "last")


def test_damaged_checkpoint_does_not_push_out_the_good_one_before_it(saved):
    change_byte(file_of(saved, "last"))
    save_checkpoint(saved, "last", make(2)[0], MANIFEST | {"epoch": 3})
    assert load_checkpoint(saved, "last").manifest["epoch"] == 3
    change_byte(file_of(saved, "last"))
    assert load_checkpoint(saved, "last").manifest["epoch"] == 1


def test_half_written_files_of_a_killed_run_are_removed(saved):
    (saved / ".last-0123.safetensors.tmp").write_bytes(b"half")
    (saved / "last-0123.safetensors").write_bytes(b"no manifest names it")
    before = {path.name for path in saved.iterdir()}
    save_checkpoint(saved, "last", make(2)[0], MANIFEST)
    after = {path.name for path in saved.iterdir()}
    assert {".last-0123.safetensors.tmp", "last-0123.safetensors"} <= before - after


def test_checkpoint_of_format_1_is_read(tmp_path):
    save_checkpoint(tmp_path, "last", make(0)[0], MANIFEST)
    content = json.loads((tmp_path / "last.json").read_text()) | {"format": 1}
    (tmp_path / "last.json").write_text(json.dumps(content))
    with pytest.raises(CheckpointError):  # its format was changed later: the hash is still there
        load_checkpoint(tmp_path, "last")
    del content["manifest_sha256"]
    (tmp_path / "last.json").write_text(json.dumps(content, indent=1))
    other = make(5)[0]
    restore(load_checkpoint(tmp_path, "last"), other)
    assert equal(other, make(0)[0])


def test_checkpoint_of_a_later_format_is_named(tmp_path):
    save_checkpoint(tmp_path, "last", make(0)[0], MANIFEST)
    rewrite_manifest(tmp_path / "last.json", format=3)
    with pytest.raises(CheckpointError, match="has format 3, but this version reads 1 to 2"):
        load_checkpoint(tmp_path, "last")


def test_continued_run_has_the_random_states_and_an_evaluated_one_leaves_them(tmp_path):
    model, optimizer = make()
    save_checkpoint(tmp_path, "last", model, MANIFEST, optimizer)
    expected = draws()
    restore(load_checkpoint(tmp_path, "last"), model)
    assert draws() != expected
    restore(load_checkpoint(tmp_path, "last"), model, optimizer)
    assert draws() == expected


def draws():
    return random.random(), np.random.rand(), torch.rand(()).item(), random.gauss(0, 1)


def test_manifest_cannot_point_outside_the_folder(tmp_path):
    (tmp_path / "run").mkdir()
    save_checkpoint(tmp_path / "run", "last", make()[0], MANIFEST)
    file = load_checkpoint(tmp_path / "run", "last").manifest["file"]
    (tmp_path / "run" / file).rename(tmp_path / file)
    rewrite_manifest(tmp_path / "run" / "last.json", file="../" + file)
    with pytest.raises(CheckpointError, match="cannot be read"):
        load_checkpoint(tmp_path / "run", "last")


@pytest.mark.parametrize(
    "network",
    [
        nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(8, 4)),
        nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2)),
        nn.Sequential(*make()[0], nn.Linear(3, 3)),
    ],
    ids=["another shape", "fewer", "more"],
)
def test_restore_refuses_another_network_and_copies_nothing(tmp_path, network):
    save_checkpoint(tmp_path, "last", make()[0], MANIFEST)
    before = [parameter.clone() for parameter in network.parameters()]
    with pytest.raises(CheckpointError, match="does not fit the network"):
        restore(load_checkpoint(tmp_path, "last"), network)
    assert all(map(torch.equal, before, network.parameters()))


def test_nothing_is_saved_into_a_folder_that_is_no_longer_this_process_s(tmp_path):
    run, model = tmp_path / "run", make()[0]
    with exclusive(run):
        save_checkpoint(run, "last", model, MANIFEST)
        run.rename(tmp_path / "moved")
        run.mkdir()
        with pytest.raises(UsageError, match="was removed or replaced while"):
            save_checkpoint(run, "last", model, MANIFEST)
    assert not list(run.iterdir())
    assert load_checkpoint(tmp_path / "moved", "last").manifest["epoch"] == 3


@pytest.mark.parametrize(
    "change", [{"bytes": "x"}, {"bytes": None}, {"bytes": -1}, {"file": 3}, {"sha256": []}]
)
def test_malformed_manifest_of_the_right_hash_is_refused(tmp_path, change):
    save_checkpoint(tmp_path, "best", make()[0], MANIFEST)
    rewrite_manifest(tmp_path / "best.json", **change)
    with pytest.raises(CheckpointError, match=r"best\.json is not a checkpoint manifest"):
        load_checkpoint(tmp_path, "best")

import pytest
import torch
from manifests import rewrite_manifest
from torch import nn

from robustnorm.errors import UsageError
from robustnorm.training import checkpoint as module
from robustnorm.training.checkpoint import (
    CheckpointError,
    load_checkpoint,
    read_manifest,
    restore,
    save_checkpoint,
)

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


@pytest.mark.parametrize("moment", [0, 1])
def test_kill_while_saving_leaves_the_former_checkpoint_whole(tmp_path, monkeypatch, moment):
    save_checkpoint(tmp_path, "last", make(0)[0], MANIFEST)
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
    assert read_manifest(tmp_path, "best") is None
    with pytest.raises(UsageError, match=r"no checkpoint 'best' in"):
        load_checkpoint(tmp_path, "best")


@pytest.mark.parametrize("position", [10, -1])
def test_changed_byte_is_detected(tmp_path, position):
    save_checkpoint(tmp_path, "last", make()[0], MANIFEST)
    (file,) = tmp_path.glob("*.safetensors")
    data = bytearray(file.read_bytes())
    data[position] ^= 1
    file.write_bytes(data)
    with pytest.raises(
        CheckpointError, match=r"is damaged: its sha256 is not the one in last\.json"
    ):
        load_checkpoint(tmp_path, "last")


def test_missing_tensors_are_named(tmp_path):
    save_checkpoint(tmp_path, "last", make()[0], MANIFEST)
    (file,) = tmp_path.glob("*.safetensors")
    file.unlink()
    with pytest.raises(CheckpointError, match=r"last-.*safetensors cannot be read"):
        load_checkpoint(tmp_path, "last")


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"format": 1}'])
def test_damaged_manifest_is_named(tmp_path, text):
    (tmp_path / "last.json").write_text(text)
    with pytest.raises(CheckpointError, match=r"last\.json is not a checkpoint manifest"):
        read_manifest(tmp_path, "last")


def test_manifest_cannot_point_outside_the_folder(tmp_path):
    (tmp_path / "run").mkdir()
    save_checkpoint(tmp_path / "run", "last", make()[0], MANIFEST)
    file = read_manifest(tmp_path / "run", "last")["file"]
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

"""What is kept is whole, and made once, whoever asks at the same time and whoever is killed."""

import errno
import fcntl
import os
import tarfile
import time

import numpy as np
import pytest
import torch
from PIL import Image
from processes import CONTEXT, read_together

from robustnorm.data import load_dataset
from robustnorm.data.cache import cached_tensors


@pytest.fixture
def folder(tmp_path):
    random = np.random.default_rng(0)
    for part in ("train", "test"):
        (tmp_path / "pets" / part / "cat").mkdir(parents=True)
        for i in range(150):
            pixels = random.integers(0, 256, (8, 8, 3), np.uint8)
            Image.fromarray(pixels).save(tmp_path / "pets" / part / "cat" / f"{i}.png")
    return tmp_path / "pets"


@pytest.fixture
def archive(folder):
    with tarfile.open(folder.with_suffix(".tar.gz"), "w:gz") as tar:
        tar.add(folder, folder.name)
    return folder.with_suffix(".tar.gz")


def start(data, cache, count):
    """Starts processes that read the data at the same time, once all are there."""
    together, hashes = CONTEXT.Barrier(count + 1), CONTEXT.SimpleQueue()
    processes = [
        CONTEXT.Process(target=read_together, args=(str(data), cache, together, hashes))
        for _ in range(count)
    ]
    for process in processes:
        process.start()
    together.wait(60)
    return processes, hashes


@pytest.mark.slow
@pytest.mark.parametrize("packed", [False, True])
def test_two_at_once_read_the_same(folder, archive, tmp_path, packed):
    data, cache = (archive if packed else folder), tmp_path / "cache"
    processes, hashes = start(data, cache, 3)
    found = {hashes.get() for _ in processes}
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0, 0]
    assert found == {load_dataset(str(data), root=cache).sha256}
    assert not [path.name for path in cache.iterdir() if path.name.startswith(".")]


@pytest.mark.slow
@pytest.mark.parametrize("delay", [0.005, 0.02, 0.05])
def test_a_kill_in_between_is_made_good(archive, tmp_path, delay):
    cache = tmp_path / "cache"
    (process,), _ = start(archive, cache, 1)
    time.sleep(delay)
    process.kill()
    process.join()
    expected = load_dataset(str(archive), root=tmp_path / "other")
    dataset = load_dataset(str(archive), root=cache)
    assert torch.equal(dataset.train.images, expected.train.images)


def test_who_waits_finds_what_was_made(tmp_path):
    made = []

    def make():
        made.append(1)
        # Another process, which found nothing either, asks now and waits.
        child = os.fork()
        if child == 0:
            found = cached_tensors(tmp_path / "x.safetensors", lambda: os._exit(1))
            os._exit(0 if found["a"].tolist() == [1, 2] else 2)
        made.append(child)
        return {"a": torch.tensor([1, 2])}

    cached_tensors(tmp_path / "x.safetensors", make)
    _, status = os.waitpid(made[1], 0)
    assert os.waitstatus_to_exitcode(status) == 0
    assert cached_tensors(tmp_path / "x.safetensors", None)["a"].tolist() == [1, 2]
    assert [path.name for path in tmp_path.iterdir()] == ["x.safetensors"]


@pytest.mark.parametrize("damage", ["bin", "index"])
def test_damaged_pack_is_made_anew(archive, tmp_path, damage):
    first = load_dataset(str(archive), root=tmp_path / "cache", stream=True)
    images = first.train.images[:]
    [path] = (tmp_path / "cache").glob("packed-*.bin")
    if damage == "index":
        path = path.with_suffix(".safetensors")
    path.write_bytes(path.read_bytes()[:-5])
    again = load_dataset(str(archive), root=tmp_path / "cache", stream=True)
    assert torch.equal(again.train.images[:], images)


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP])
def test_file_system_without_locks_keeps_things_too(tmp_path, monkeypatch, number):
    def refuse(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", refuse)
    made = []

    def make():
        made.append(1)
        return {"numbers": torch.arange(3)}

    for _ in range(2):
        assert cached_tensors(tmp_path / "file", make)["numbers"].tolist() == [0, 1, 2]
    assert len(made) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["file"]

"""Images on disk give the batches that images in memory give, however many processes read them."""

import os
import shutil
import signal
from dataclasses import replace
from itertools import count

import numpy as np
import pytest
import torch
from PIL import Image

from robustnorm.data import load_dataset
from robustnorm.data.batches import epoch_batches
from robustnorm.data.dataset import Augmentation
from robustnorm.data.errors import DataError, RefusedDataError
from robustnorm.runs import Run
from robustnorm.settings.config import Config
from robustnorm.system.errors import UsageError
from robustnorm.work.evaluate import evaluate_records
from robustnorm.work.train import train_run

CROP_AND_FLIP = Augmentation(padding=2, flip=True)


@pytest.fixture
def folder(tmp_path):
    random = np.random.default_rng(0)
    for part, images in (("train", 12), ("test", 3)):
        for name in ("cat", "dog"):
            (tmp_path / "pets" / part / name).mkdir(parents=True)
            for i in range(images):
                pixels = random.integers(0, 256, (20 + i, 30 - i, 3), np.uint8)
                Image.fromarray(pixels).save(tmp_path / "pets" / part / name / f"{i}.jpg")
    return tmp_path / "pets"


def read(folder, **options):
    return load_dataset(str(folder), root=folder.parent / "cache", resize=16, **options)


def epoch(dataset, number=0, augmentation=CROP_AND_FLIP, **options):
    options = {"batch_size": 5, "seed": 1, "epoch": number, "augmentation": augmentation} | options
    return list(epoch_batches(dataset.train, **options))


def equal(batches, others):
    return all(
        torch.equal(a, b)
        for one, other in zip(batches, others, strict=True)
        for a, b in zip(one, other, strict=True)
    )


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_batches_are_those_of_images_in_memory(folder, workers):
    stored = read(folder, stream=True, workers=workers)
    state = torch.get_rng_state()
    assert equal(epoch(stored), epoch(read(folder)))
    assert torch.equal(torch.get_rng_state(), state)


def test_part_of_an_epoch_gives_the_batches_of_the_whole(folder):
    stored = read(folder, stream=True)
    assert equal(epoch(stored, first_step=2), epoch(stored)[2:])


def test_random_parts_follow_from_seed_epoch_and_id(folder):
    stored, parts = read(folder, stream=True), Augmentation(crop_area=0.2)

    def by_id(batches):
        return {int(i): x for b in batches for i, x in zip(b.ids, b.images, strict=True)}

    first = by_id(epoch(stored, augmentation=parts))
    again = by_id(epoch(stored, augmentation=parts, batch_size=8))
    for i in first.keys() & again.keys():
        assert torch.equal(first[i], again[i])
    other = by_id(epoch(stored, augmentation=parts, number=1))
    assert not any(torch.equal(first[i], other[i]) for i in first.keys() & other.keys())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"stream": False, "resize": 16}, "stay on disk"),
        ({"stream": True}, "give --resize"),
    ],
)
def test_parts_of_images_that_cannot_be_are_refused(folder, options, message):
    for path in folder.rglob("*.jpg"):
        Image.new("RGB", (20, 20)).save(path)
    dataset = load_dataset(str(folder), root=folder.parent / "cache", workers=0, **options)
    with pytest.raises(DataError, match=message):
        epoch(dataset, augmentation=Augmentation(crop_area=0.5))


def test_image_that_is_damaged_meanwhile_ends_in_a_sentence(folder):
    stored = read(folder, stream=True, workers=1)
    (folder / "train" / "dog" / "3.jpg").write_bytes(b"gone")
    with pytest.raises(RefusedDataError, match=r"dog/3\.jpg has changed since") as raised:
        epoch(stored)
    assert len(str(raised.value).splitlines()) == 1


def test_process_that_is_killed_ends_in_a_sentence(folder, monkeypatch):
    stored = read(folder, stream=True, workers=1)
    decode = type(stored.train.images).decode

    def killed(self, rows, crops):
        if torch.utils.data.get_worker_info():
            os.kill(os.getpid(), signal.SIGKILL)
        return decode(self, rows, crops)

    monkeypatch.setattr(type(stored.train.images), "decode", killed)
    with pytest.raises(DataError, match=r"a process that decodes images ended .*--data_workers 1"):
        epoch(stored)


def small(folder, name, **options):
    given = {"epochs": 2} | options
    return Config(
        **{"norm": "auxbn", "data": str(folder), "data_root": str(folder.parent / "cache")},
        **{"name": name, "output": str(folder.parent), "reports": str(folder.parent / "reports")},
        **{"resize": 16, "network": "tiny", "batch_size": 4, "validation": 4},
        **{"train_steps": 1, "validation_steps": 1, "test_curve": 2, "device": "cpu"},
        **{"learning_rate": 0.001, "checks": "none", "worst": False},
        **given,
    )


def weights(folder, name):
    return Run.open(folder.parent / name / "auxbn-seed0", "last").sha256


@pytest.mark.usefixtures("tiny")
def test_training_and_evaluation_from_disk_are_those_from_memory_and_go_on(folder):
    memory, disk = small(folder, "memory", stream=False), small(folder, "disk", stream=True)
    asked = count(1)
    train_run(disk, should_stop=lambda seconds: seconds >= 0 and next(asked) == 2)
    assert len(Run.open(folder.parent / "disk" / "auxbn-seed0", "last").within_epoch["losses"]) == 2
    for config in (memory, disk):
        train_run(config)
    assert weights(folder, "disk") == weights(folder, "memory")
    [[first], [second]] = (evaluate_records(config) for config in (memory, disk))
    assert [v.correct.tolist() for v in first.verdicts] == [
        v.correct.tolist() for v in second.verdicts
    ]
    assert first.dataset == second.dataset


@pytest.mark.usefixtures("tiny")
def test_run_is_evaluated_on_test_images_of_another_data_set(folder, tmp_path):
    config = small(folder, "run", epochs=1)
    train_run(config)
    [own] = evaluate_records(config)
    corrupted = tmp_path / "PETS-C"
    corrupted.mkdir()
    images = load_dataset(str(folder), root=folder.parent / "cache", resize=16).test.images
    np.save(corrupted / "fog.npy", images.permute(0, 2, 3, 1).numpy() // 2)
    np.save(corrupted / "labels.npy", np.array([0, 0, 0, 1, 1, 1]))
    other = replace(config, data=str(corrupted / "fog.npy"), resize=None)
    with pytest.raises(UsageError, match=r"holds the evaluation on pets at 16x16; choose another"):
        evaluate_records(other)
    [found] = evaluate_records(replace(other, reports=str(tmp_path / "fog")))
    assert (found.n, found.dataset["name"]) == (6, "PETS-C fog")
    assert found.dataset["sha256"] != own.dataset["sha256"]
    np.save(corrupted / "labels.npy", np.array([0, 0, 0, 1, 1, 7]))
    with pytest.raises(UsageError, match=r"2 classes cat, dog; PETS-C fog has 3 .* the 8 classes"):
        evaluate_records(replace(other, reports=str(tmp_path / "fog")))
    shutil.rmtree(folder / "train")
    (folder / "test" / "cat").rename(folder / "test" / "ant")
    with pytest.raises(UsageError, match="the 2 classes ant, dog; give other data"):
        evaluate_records(replace(config, reports=str(tmp_path / "ant")))

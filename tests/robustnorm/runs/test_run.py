"""The properties of a run on disk, and how often its file is read for them."""

import hashlib
from collections import Counter
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from robustnorm.data.digits import load_digits
from robustnorm.runs import Run, checkpoint, load_model
from robustnorm.runs.checkpoint import CheckpointError, save_checkpoint
from robustnorm.runs.described import build_model, describe_dataset
from robustnorm.runs.run import find_runs, is_trained
from robustnorm.settings.config import Config
from robustnorm.system.errors import UsageError
from robustnorm.work.evaluate import evaluate_records

CONFIG = Config(
    name="digits", norm="auxbn", width=4, epochs=2, test_limit=10, checks="none", device="cpu"
)


def entry(epoch):
    losses = {"clean_loss": 2.0, "adv_loss": 3.0, "seconds": 1.0}
    return {"epoch": epoch, "learning_rate": 0.1, "validation": {}, "test": {}, **losses}


def save(tag, epoch, seed=0, config=CONFIG, **more):
    data = describe_dataset(load_digits(), 100)
    model = build_model(replace(config, seed=seed), data)
    history = [entry(number + 1) for number in range(epoch)]
    manifest = {"config": config.to_dict(), "dataset": data, "epoch": epoch, "history": history}
    save_checkpoint(config.folder, tag, model, manifest | more)
    return model


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A run's folder with "best" of its first epoch and "last" of its second."""
    monkeypatch.chdir(tmp_path)
    save("best", 1)
    save("last", 2, seed=1)
    return CONFIG.folder


@pytest.fixture
def hashed(monkeypatch):
    """Counts how often the bytes of a tensors' file are hashed."""
    counts = Counter()

    def sha256(data=b""):
        counts["bytes"] += len(data) > 50_000
        return hashlib.sha256(data)

    def file_digest(file, name):
        counts[file.name.rpartition("/")[2].partition("-")[0]] += 1
        return hashlib.file_digest(file, name)

    counting = SimpleNamespace(sha256=sha256, file_digest=file_digest)
    monkeypatch.setattr(checkpoint, "hashlib", counting)
    return counts


def test_evaluation_hashes_a_checkpoint_once(folder, hashed):
    (record,) = evaluate_records(CONFIG)
    assert {name: count for name, count in hashed.items() if count} == {"best": 1}
    assert record.checkpoint["sha256"] == Run.open(folder).sha256
    assert record.history == [entry(1), entry(2)]  # the whole run's
    hashed.clear()
    (found,) = evaluate_records(CONFIG)
    assert found.to_json() == record.to_json()  # evaluated before
    assert {name: count for name, count in hashed.items() if count} == {"best": 1}


def test_run_says_what_it_is(folder):
    run = Run.open(folder, "best")
    assert (run.config, run.epoch, len(run.history), len(run.whole_history)) == (CONFIG, 1, 1, 2)
    assert run.dataset["name"] == "scikit-learn digits"
    assert (run.imported, run.within_epoch, run.processes) == ({}, {}, 1)
    assert Run.find(folder, "epoch1") is None
    with pytest.raises(UsageError, match="no checkpoint 'epoch1' in"):
        Run.open(folder, "epoch1")


def test_network_is_the_one_that_was_opened_though_training_goes_on(folder):
    run, model = Run.open(folder), build_model(CONFIG, describe_dataset(load_digits(), 100))
    save("best", 2, seed=5)
    found, expected = run.network().state_dict(), model.state_dict()
    assert not run.network().training
    assert all(torch.equal(found[name], value) for name, value in expected.items())


def test_load_model_gives_network_and_manifest(folder):
    model, manifest = load_model(folder, "last")
    run = Run.open(folder, "last")
    assert manifest == run.manifest
    state = run.network().state_dict()
    assert all(torch.equal(state[name], value) for name, value in model.state_dict().items())


def test_other_data_and_other_settings_are_refused(folder):
    run, dataset = Run.open(folder), load_digits()
    run.check_data(dataset)
    with pytest.raises(UsageError, match=r"auxbn-seed0 was trained on scikit-learn digits \(cont"):
        run.check_data(replace(dataset, sha256="0" * 64))
    run.check_settings(replace(CONFIG, test_limit=3, device="cuda"))
    with pytest.raises(UsageError, match=r"other settings \(epochs: 2 there, 3 here\)"):
        run.check_settings(replace(CONFIG, epochs=3))


def test_history_is_read_though_the_tensors_of_last_are_damaged(folder):
    for file in folder.glob("last-*.safetensors"):
        file.unlink()
    assert len(Run.open(folder).whole_history) == 2
    with pytest.raises(CheckpointError, match="cannot be read"):
        Run.open(folder, "last")


def test_run_is_trained_when_it_has_all_epochs_and_found_when_it_is_within_none(folder):
    assert is_trained(CONFIG)
    assert not is_trained(replace(CONFIG, norm="bn"))
    save("last", 1, within_epoch={"losses": [[1.0, 1.0]], "seconds": 1.0})
    assert not is_trained(CONFIG)
    assert [run.folder for run in find_runs(CONFIG)] == [folder]
    assert find_runs(replace(CONFIG, checkpoint="last")) == []

"""A trained run, evaluated in one process: what sweeps must reproduce."""

import os
import shutil
from pathlib import Path

import pytest
from sweep_jobs import SETTINGS

from robustnorm import cli
from robustnorm.models import NETWORKS
from robustnorm.records.record import Record


@pytest.fixture(scope="session")
def typed():
    """The network of sweep_jobs may be imported, here and in workers, as if it had been typed."""
    with NETWORKS.typed(SETTINGS["network"]):
        yield


@pytest.fixture(scope="session")
def evaluated(typed, tmp_path_factory):
    """A folder with the checkpoint and the record of one run, evaluated in this process."""
    folder, before = tmp_path_factory.mktemp("evaluated"), Path.cwd()
    os.chdir(folder)
    try:
        options = [f"--{key}={value}" for key, value in SETTINGS.items()]
        options = [option.replace("'", "") for option in options]
        assert cli.main(["train", "--config=digits", "--norm=auxbn", *options]) == 0
        assert cli.main(["eval", "--config=digits", *options]) == 0
    finally:
        os.chdir(before)
    return folder


@pytest.fixture
def trained(evaluated, tmp_path, monkeypatch):
    """The working folder, with the checkpoint and no record."""
    shutil.copytree(evaluated / "checkpoints", tmp_path / "checkpoints")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="session")
def record(evaluated):
    """What one process found."""
    return Record.load(evaluated / "reports/digits/records/auxbn-seed0-best.json")

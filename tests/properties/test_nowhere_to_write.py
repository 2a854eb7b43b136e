"""Every command on a full or read-only disk, or in a removed folder: one sentence, no traceback."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import every_command
import pytest

from robustnorm.cli import COMMANDS
from robustnorm.system.errors import Status

NAMESPACE = ["unshare", "--map-root-user", "--mount"]
# Whose errors are those of jobs, after others were done.
OF_JOBS = {"table2", "sweep"}


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    folder = tmp_path_factory.mktemp("prepared")
    ask(folder, "prepare")
    return folder


def ask(folder, condition, *words):
    command = [*words, sys.executable, every_command.__file__, str(folder), condition]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def can_mount(folder):
    mount = [*NAMESPACE, "mount", "--bind", str(folder), str(folder)]
    return shutil.which("unshare") and subprocess.run(mount, check=False).returncode == 0


def test_every_command_is_there():
    assert {words[0] for words in every_command.COMMANDS.values()} == set(COMMANDS)


@pytest.mark.slow
@pytest.mark.parametrize("condition", ["full", "read-only", "reports are a file", "removed"])
def test_every_command_ends_in_one_sentence(prepared, tmp_path, condition):
    if condition == "read-only" and not can_mount(tmp_path):
        pytest.skip("no file system can be mounted here")
    folder = tmp_path / "work"
    shutil.copytree(prepared, folder)
    words = NAMESPACE if condition == "read-only" else []
    ended = ask(folder, condition, *words)
    assert [name for name, *_ in ended] == list(every_command.COMMANDS)
    for name, status, told in ended:
        assert status != "traceback", f"{name}: {told}"
        assert "Traceback" not in told
        if status == Status.DONE:  # it wrote nothing, or elsewhere
            assert name == "verify" or condition == "reports are a file", name
            continue
        assert sum(line.startswith("robustnorm: ") for line in told.splitlines()) == 1
        if condition != "reports are a file":
            assert status == Status.DISK or (name in OF_JOBS and status == Status.CHECK_FAILED)
            assert "cannot be written: " in told or "does the working folder still exist" in told
    assert not list(Path(folder).rglob("*.tmp*"))

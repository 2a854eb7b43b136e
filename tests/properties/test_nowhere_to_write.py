"""Every command on a full or read-only disk, or in a removed folder: one sentence, no traceback."""

import json
import shutil
import subprocess
import sys

import every_command
import pytest

from robustnorm.cli import COMMANDS
from robustnorm.system.errors import Status

NAMESPACE = ["unshare", "--map-root-user", "--mount"]
# Whose errors are those of jobs, after others were done.
OF_JOBS = {"table2", "sweep"}
CONDITIONS = ["full", "read-only", "reports are a file", "removed"]


def can_mount(folder):
    mount = [*NAMESPACE, "mount", "--bind", str(folder), str(folder)]
    return shutil.which("unshare") and subprocess.run(mount, check=False).returncode == 0


@pytest.fixture(scope="module")
def ended(tmp_path_factory):
    """How each command ended, by condition, and the folder that holds a folder for each."""
    folder, mounts = tmp_path_factory.mktemp("nowhere"), can_mount(tmp_path_factory.mktemp("mount"))
    conditions = [condition for condition in CONDITIONS if condition != "read-only" or mounts]
    words = [*NAMESPACE * bool(mounts), sys.executable, every_command.__file__]
    done = subprocess.run(
        [*words, str(folder), *conditions], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    found = {condition: [] for condition in conditions}
    for line in done.stdout.splitlines():
        condition, *how = json.loads(line)
        found[condition].append(how)
    return found, folder


def test_every_command_is_there():
    assert {words[0] for words in every_command.COMMANDS.values()} == set(COMMANDS)


@pytest.mark.slow
@pytest.mark.parametrize("condition", CONDITIONS)
def test_every_command_ends_in_one_sentence(ended, condition):
    found, folder = ended
    if condition not in found:
        pytest.skip("no file system can be mounted here")
    assert [name for name, *_ in found[condition]] == list(every_command.COMMANDS)
    for name, status, told in found[condition]:
        assert status != "traceback", f"{name}: {told}"
        assert "Traceback" not in told
        if status == Status.DONE:  # it wrote nothing, or elsewhere
            assert name == "verify" or condition == "reports are a file", name
            continue
        assert sum(line.startswith("robustnorm: ") for line in told.splitlines()) == 1
        if condition != "reports are a file":
            assert status == Status.DISK or (name in OF_JOBS and status == Status.CHECK_FAILED)
            assert "cannot be written: " in told or "does the working folder still exist" in told
    assert not list((folder / condition).rglob("*.tmp*"))

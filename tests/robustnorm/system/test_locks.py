"""Two processes in one folder: the second is refused, or the first saves nothing more."""

import errno
import os
import shutil
import subprocess
import sys

import pytest

from robustnorm.system import locks
from robustnorm.system.errors import UsageError
from robustnorm.system.locks import check_held, exclusive

# Holds a folder until a line comes, then says whether it still does. NONE: errors of flock by kind.
HOLD = """
import fcntl, os, stat, sys
from pathlib import Path
from robustnorm.system.errors import UsageError
from robustnorm.system.locks import check_held, exclusive
folder, none = Path(sys.argv[1]), eval(sys.argv[2])
def flock(descriptor, how, true=fcntl.flock):
    kind = "folder" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else "file"
    if kind in none:
        raise OSError(none[kind], os.strerror(none[kind]))
    true(descriptor, how)
fcntl.flock = flock
try:
    with exclusive(folder):
        print("held", flush=True)
        sys.stdin.readline()
        check_held(folder)
        print("still held", flush=True)
except UsageError as error:
    print(error, flush=True)
"""
# What flock raises of a folder and of a file.
EVERYWHERE = {}
ONLY_FILES = {"folder": errno.EBADF}  # as on NFS
NOWHERE = {"folder": errno.ENOLCK, "file": errno.ENOLCK}
NOT_IMPLEMENTED = {"folder": errno.EOPNOTSUPP, "file": errno.EOPNOTSUPP}


@pytest.fixture
def hold(tmp_path):
    """Returns a function that starts a process in a folder, and one that asks it whether it is."""
    started = []

    def start(none):
        process = subprocess.Popen(
            [sys.executable, "-c", HOLD, str(tmp_path / "run"), repr(none)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        return process, process.stdout.readline().strip()

    yield start
    for process in started:
        process.kill()
        process.communicate()


def asked(process):
    return process.communicate("\n")[0].strip()


def test_folder_is_held_by_one_and_given_back(tmp_path):
    with exclusive(tmp_path / "run"):
        check_held(tmp_path / "run")
        with pytest.raises(UsageError) as caught, exclusive(tmp_path / "run"):
            pass
        assert f"is in use by process {os.getpid()} on " in str(caught.value)
        with exclusive(tmp_path / "other"):
            pass
        check_held(tmp_path / "run")
    with exclusive(tmp_path / "run"):
        pass
    check_held(tmp_path / "run")
    assert not locks._held


@pytest.mark.parametrize("none", [EVERYWHERE, ONLY_FILES, NOWHERE, NOT_IMPLEMENTED])
def test_second_process_is_refused_until_the_first_ends_or_is_killed(hold, none):
    first, said = hold(none)
    assert said == "held"
    assert f"is in use by process {first.pid} on " in hold(none)[1]
    assert asked(first) == "still held"
    second, said = hold(none)
    assert said == "held"
    second.kill()
    second.wait()
    assert hold(none)[1] == "held"


def test_second_process_is_refused_though_the_lock_file_was_removed(hold, tmp_path):
    first, _ = hold(EVERYWHERE)
    (tmp_path / "run" / ".lock").unlink()
    assert "is in use by another process" in hold(EVERYWHERE)[1]
    assert asked(first) == "still held"


@pytest.mark.parametrize(("none", "file"), [(ONLY_FILES, ".lock"), (NOWHERE, ".lock.held")])
def test_process_whose_lock_file_was_removed_saves_nothing_more(hold, tmp_path, none, file):
    first, _ = hold(none)
    (tmp_path / "run" / file).unlink()
    second, said = hold(none)
    assert said == "held"
    assert f"{file} was removed or replaced" in asked(first)
    assert asked(second) == "still held"


def test_process_whose_folder_was_replaced_saves_nothing_more(hold, tmp_path):
    first, _ = hold(EVERYWHERE)
    shutil.move(tmp_path / "run", tmp_path / "elsewhere")
    assert hold(EVERYWHERE)[1] == "held"
    assert f"{tmp_path / 'run'} was removed or replaced" in asked(first)


def test_holder_of_the_file_alone_is_respected(hold, tmp_path):
    """Former versions locked nothing else."""
    first, _ = hold(ONLY_FILES)
    assert f"is in use by process {first.pid} on " in hold(EVERYWHERE)[1]


def test_mark_of_an_unknown_host_is_respected_and_told(hold, tmp_path):
    (tmp_path / "run").mkdir()
    marker = tmp_path / "run" / ".lock.held"
    marker.write_text("1234\nelsewhere\n5678\n")
    assert hold(NOWHERE)[1].endswith(f"; if that process no longer runs, remove {marker}")

import errno
import os
import resource
import shutil
import subprocess
import sys
from collections import namedtuple
from pathlib import Path

import pytest

from robustnorm.system.errors import DiskError
from robustnorm.system.files import check_free_space, write_atomically

Usage = namedtuple("Usage", "total used free")
OTHER = "choose another disk with --output or --reports"
FREE = f"1,234 bytes are needed, 7 are free; free some, or {OTHER}"


@pytest.fixture
def path(tmp_path):
    (tmp_path / "file").write_bytes(b"former")
    return tmp_path / "file"


def test_write_replaces_a_file_and_leaves_nothing_else(path):
    write_atomically(path, b"new")
    assert path.read_bytes() == b"new"
    assert list(path.parent.iterdir()) == [path]


def test_write_syncs_the_file_before_its_rename_and_the_folder_after(path, monkeypatch):
    synced = []

    def fsync(descriptor):
        name = Path(f"/proc/self/fd/{descriptor}").readlink().name
        synced.append((name, path.read_bytes()))

    monkeypatch.setattr(os, "fsync", fsync)
    write_atomically(path, b"new")
    assert synced == [(".file.tmp", b"former"), (path.parent.name, b"new")]


@pytest.mark.parametrize(
    ("number", "words", "repair"),
    [
        (errno.ENOSPC, "the disk is full", FREE),
        (errno.EDQUOT, "the disk quota is used up", FREE),
        (errno.EROFS, "it is read-only", OTHER),
        (errno.EACCES, "writing is not permitted", OTHER),
        (errno.ENOTDIR, "a file is where its folder should be", OTHER),
    ],
)
def test_write_tells_path_bytes_needed_and_free_when_the_disk_refuses(
    path, monkeypatch, number, words, repair
):
    def refuse(_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", refuse)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(10, 10, 7))
    with pytest.raises(DiskError) as caught:
        write_atomically(path, b"x" * 1234)
    assert str(caught.value) == f"{path} cannot be written: {words}; {repair}"
    assert list(path.parent.iterdir()) == [path]
    assert path.read_bytes() == b"former"


def test_write_beyond_the_largest_file_that_is_allowed_leaves_the_former_one(path):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
    try:
        with pytest.raises(DiskError, match="larger than is allowed; 5,000 bytes are needed"):
            write_atomically(path, b"x" * 5000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert path.read_bytes() == b"former"
    assert list(path.parent.iterdir()) == [path]


def test_write_makes_the_folder(tmp_path):
    write_atomically(tmp_path / "new" / "folder" / "file", b"new")
    assert (tmp_path / "new" / "folder" / "file").read_bytes() == b"new"


def test_other_errors_of_the_system_are_not_blamed_on_the_disk(path, monkeypatch):
    def interrupt(_):
        raise InterruptedError(errno.EINTR, "interrupted")

    monkeypatch.setattr(os, "fsync", interrupt)
    with pytest.raises(InterruptedError):
        write_atomically(path, b"")


def test_free_space_is_asked_of_the_disk_where_the_folder_will_be(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(shutil, "disk_usage", lambda there: asked.append(there) or Usage(9, 4, 5))
    check_free_space(tmp_path / "a" / "b", 5)
    with pytest.raises(DiskError, match="needs 6 bytes and its disk has 5 free"):
        check_free_space(tmp_path / "a" / "b", 6)
    assert asked == [tmp_path, tmp_path]


SMALL_DISK = """
import subprocess
import sys
from pathlib import Path
from torch import nn
from robustnorm.system.errors import DiskError
from robustnorm.system.locks import exclusive
from robustnorm.runs.checkpoint import load_checkpoint, save_checkpoint
disk = Path(sys.argv[1])
def save(size):
    manifest = {"config": {}, "dataset": {}, "size": size}
    save_checkpoint(disk / "run", "last", nn.Linear(size, 1), manifest)
save(1000)
try:
    save(100_000)
except DiskError as error:
    print(error)
print(load_checkpoint(disk / "run", "last").manifest["size"], *disk.rglob("*.tmp"))
save(1001)
print(load_checkpoint(disk / "run", "last").manifest["size"])
subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
try:
    with exclusive(disk / "other"):
        pass
except DiskError as error:
    print(error)
"""


def test_really_full_and_really_read_only_disk_leave_the_last_checkpoint(tmp_path):
    mount = f"mount -t tmpfs -o size=256k none {tmp_path}"
    words = ["unshare", "--map-root-user", "--mount", "sh", "-c"]
    if shutil.which("unshare") is None or subprocess.run([*words, mount], check=False).returncode:
        pytest.skip("no file system can be mounted here")
    script = [f'{mount} && exec "$@"', "sh", sys.executable, "-c", SMALL_DISK, str(tmp_path)]
    done = subprocess.run([*words, *script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    full, first, second, read_only = done.stdout.splitlines()
    assert "cannot be written: the disk is full; 400," in full
    assert (first, second) == ("1000", "1001")
    assert "cannot be written: it is read-only" in read_only

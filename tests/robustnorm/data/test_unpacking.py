"""What an archive may write into data_root: the data set's own files, on the disk when it ends."""

import io
import os
import tarfile
from pathlib import Path

import pytest

from robustnorm.data.errors import RefusedDataError
from robustnorm.data.unpacking import unpacked_folder

DATA = {"set/data_batch_1": b"1", "set/data_batch_2.bin": b"2", "set/batches.meta": b"3"}
PROGRAMS = (
    *("yaml.py", "set/yaml.py", "set/x.pth", "set/site-packages/x.pth", "set/torch.so"),
    *("Makefile", "other/data_batch_1", "sitecustomize.pyc", ".git/hooks/pre-commit"),
)


def write(path, files, links=()):
    with tarfile.open(path, "w") as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size, member.mode = len(content), 0o777
            tar.addfile(member, io.BytesIO(content))
        for name, target in links:
            member = tarfile.TarInfo(name)
            member.type, member.linkname = tarfile.SYMTYPE, target
            tar.addfile(member)


def files_below(folder):
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def test_only_data_are_unpacked(tmp_path):
    write(tmp_path / "set.tar", DATA | dict.fromkeys(PROGRAMS, b"print('run')"))
    folder = unpacked_folder(tmp_path, "set", "set.tar")
    assert files_below(tmp_path) == {*DATA, "set.tar"}
    assert not os.access(folder / "data_batch_1", os.X_OK)


@pytest.mark.parametrize(
    ("files", "links"),
    [
        ({"/tmp/set/data_batch_1": b""}, ()),
        ({"set/../../data_batch_1": b""}, ()),
        ({}, [("set/data_batch_9", "/etc/passwd")]),
        ({}, [("set", "..")]),
    ],
)
def test_what_leads_outside_is_refused_and_nothing_is_left(tmp_path, files, links):
    write(tmp_path / "set.tar", DATA | files, links)
    with pytest.raises(RefusedDataError, match=r"set\.tar cannot be read"):
        unpacked_folder(tmp_path, "set", "set.tar")
    assert {path.name for path in tmp_path.iterdir()} == {"set.tar"}


def test_every_file_is_synced_before_the_folder_has_its_name(tmp_path, monkeypatch):
    synced = []

    def fsync(descriptor):
        path = Path(f"/proc/self/fd/{descriptor}").readlink()
        synced.append((path.name, (tmp_path / "set").exists()))

    write(tmp_path / "set.tar", DATA)
    monkeypatch.setattr(os, "fsync", fsync)
    unpacked_folder(tmp_path, "set", "set.tar")
    names = [Path(name).name for name in DATA]
    assert {(f".{name}.tmp", False) for name in names} <= set(synced)
    assert synced[-1] == (tmp_path.name, True)

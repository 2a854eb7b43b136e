"""What an archive may write into data_root: the data set's own files, on the disk when it ends."""

import hashlib
import io
import os
import tarfile
from pathlib import Path

import pytest
import torch

from robustnorm.data.errors import DataError, RefusedDataError
from robustnorm.data.unpacking import download, unpacked_folder

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


def test_rest_of_a_killed_unpacking_is_no_part_of_the_folder(tmp_path):
    (tmp_path / ".set.tmp" / "set").mkdir(parents=True)
    (tmp_path / ".set.tmp" / "set" / "data_batch_7").write_bytes(b"half")
    write(tmp_path / "set.tar", DATA)
    unpacked_folder(tmp_path, "set", "set.tar")
    assert files_below(tmp_path) == {*DATA, "set.tar"}


def test_truncated_archive_leaves_no_folder_that_a_second_call_would_take(tmp_path):
    write(tmp_path / "set.tar", DATA)
    whole = (tmp_path / "set.tar").read_bytes()
    (tmp_path / "set.tar").write_bytes(whole[:1600])  # after the first file
    for _ in range(2):
        with pytest.raises(RefusedDataError, match=r"set\.tar cannot be read"):
            unpacked_folder(tmp_path, "set", "set.tar")
        assert {path.name for path in tmp_path.iterdir()} == {"set.tar"}
    (tmp_path / "set.tar").write_bytes(whole)
    assert files_below(unpacked_folder(tmp_path, "set", "set.tar")) == {Path(n).name for n in DATA}


def published(monkeypatch, content):
    """Returns the addresses from which files of this content were downloaded."""
    asked = []

    def fetch(url, path):
        asked.append(url)
        Path(path).write_bytes(content)

    monkeypatch.setattr(torch.hub, "download_url_to_file", fetch)
    return asked


def test_file_is_downloaded_once(tmp_path, monkeypatch):
    asked = published(monkeypatch, b"data")
    for _ in range(2):
        download("https://a.b/set.tar", tmp_path / "set.tar", hashlib.md5(b"data").hexdigest())
    assert asked == ["https://a.b/set.tar"]
    assert (tmp_path / "set.tar").read_bytes() == b"data"


def test_download_of_another_content_leaves_nothing(tmp_path, monkeypatch):
    published(monkeypatch, b"datum")
    with pytest.raises(DataError, match=r"its md5 is .*; download it by other means and put it"):
        download("https://a.b/set.tar", tmp_path / "set.tar", hashlib.md5(b"data").hexdigest())
    assert not list(tmp_path.iterdir())

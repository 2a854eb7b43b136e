import errno
import os
from unittest import mock

import numpy as np
import pytest
import torch

from robustnorm.records.journal import ChunkVerdict, Journal, Key
from robustnorm.system.device import made_by
from robustnorm.system.errors import DiskError, UsageError
from robustnorm.system.source import versions

VERDICTS = {
    Key("none", "final", "clean", "clean"): ChunkVerdict(np.ones(3, bool), np.ones(3, bool))
}


def test_journal_keeps_the_former_parts_when_the_disk_is_full(tmp_path, monkeypatch):
    path = tmp_path / "x.journal"
    Journal(path, "a").add(0, VERDICTS)
    full = OSError(errno.ENOSPC, "No space left on device")
    monkeypatch.setattr(os, "fsync", mock.Mock(side_effect=full))
    with pytest.raises(DiskError, match=r"x\.journal cannot be written: the disk is full"):
        Journal(path, "a").add(1, VERDICTS)
    assert 0 in Journal(path, "a").chunks


def test_damaged_lines_are_told_and_their_parts_done_again(tmp_path, caplog):
    path = tmp_path / "x.journal"
    journal = Journal(path, "a")
    for number in range(3):
        journal.add(number, VERDICTS, 1.5, images=f"{number}")
    whole = path.read_bytes()
    generator = np.random.default_rng(0)
    for bit in generator.choice(8 * len(whole), 300, replace=False):
        damaged = bytearray(whole)
        damaged[bit // 8] ^= 1 << bit % 8
        path.write_bytes(damaged)
        caplog.clear()
        found = Journal(path, "a")
        assert found.chunks.keys() <= {0, 1, 2}
        for number, part in found.chunks.items():
            assert found.images[number] == f"{number}"
            assert part.keys() == VERDICTS.keys()
            assert all(p.correct.all() and p.agrees.all() for p in part.values())
        missing = 3 - len(found.chunks)
        assert ("incomplete or damaged" in caplog.text) == (missing > 0)
        assert found.seconds == 1.5 * len(found.chunks)


def test_line_that_a_kill_cut_off_is_told_and_the_next_one_is_read(tmp_path, caplog):
    path = tmp_path / "x.journal"
    Journal(path, "a").add(0, VERDICTS)
    path.write_bytes(path.read_bytes()[:-20])
    Journal(path, "a").add(1, VERDICTS)
    assert Journal(path, "a").chunks.keys() == {1}
    assert "1 lines are incomplete or damaged" in caplog.text


def test_journal_of_another_fingerprint_is_removed_and_told(tmp_path, caplog):
    path = tmp_path / "x.journal"
    Journal(path, "a").add(0, VERDICTS)
    assert not Journal(path, "b").chunks
    assert not path.exists()
    assert f"{path} belongs to another evaluation and is started again" in caplog.text


@pytest.mark.parametrize(
    ("name", "value"), [("robustnorm", "0.0.9"), ("torch", "2.9.1"), ("device", "CPU, 7 threads")]
)
def test_journal_of_other_versions_or_another_device_is_refused(tmp_path, name, value):
    path, here = tmp_path / "x.journal", made_by(torch.device("cpu"))
    Journal(path, "a", here | {name: value}).add(0, VERDICTS)
    whole = path.read_bytes()
    with pytest.raises(UsageError) as caught:
        Journal(path, "a", here)
    assert f"was begun with others ({name} {value}, here {here[name]})" in str(caught.value)
    assert path.read_bytes() == whole
    path.unlink()
    Journal(path, "a", here).add(0, VERDICTS)
    assert Journal(path, "a", here).devices == {here["device"]}


def test_journal_may_be_of_another_device_where_only_versions_are_required(tmp_path):
    path, here = tmp_path / "x.journal", made_by(torch.device("cpu"))
    Journal(path, "a", here | {"device": "other"}).add(0, VERDICTS)
    journal = Journal(path, "a", here, required=versions())
    journal.add(1, VERDICTS)
    assert Journal(path, "a", versions()).devices == {"other", here["device"]}

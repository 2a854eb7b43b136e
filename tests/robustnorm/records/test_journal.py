import errno
import os
from unittest import mock

import numpy as np
import pytest

from robustnorm.records.journal import Journal, Key, Part
from robustnorm.system.errors import DiskError

VERDICTS = {Key("none", "final", "clean", "clean"): Part(np.ones(3, bool), np.ones(3, bool))}


def test_journal_keeps_the_former_parts_when_the_disk_is_full(tmp_path, monkeypatch):
    path = tmp_path / "x.journal"
    Journal(path, "a").add(0, VERDICTS)
    full = OSError(errno.ENOSPC, "No space left on device")
    monkeypatch.setattr(os, "fsync", mock.Mock(side_effect=full))
    with pytest.raises(DiskError, match=r"x\.journal cannot be written: the disk is full"):
        Journal(path, "a").add(1, VERDICTS)
    assert 0 in Journal(path, "a").parts


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
        assert found.parts.keys() <= {0, 1, 2}
        for number, part in found.parts.items():
            assert found.images[number] == f"{number}"
            assert part.keys() == VERDICTS.keys()
            assert all(p.correct.all() and p.agrees.all() for p in part.values())
        missing = 3 - len(found.parts)
        assert ("incomplete or damaged" in caplog.text) == (missing > 0)
        assert found.seconds == 1.5 * len(found.parts)


def test_line_that_a_kill_cut_off_is_told_and_the_next_one_is_read(tmp_path, caplog):
    path = tmp_path / "x.journal"
    Journal(path, "a").add(0, VERDICTS)
    path.write_bytes(path.read_bytes()[:-20])
    Journal(path, "a").add(1, VERDICTS)
    assert Journal(path, "a").parts.keys() == {1}
    assert "1 lines are incomplete or damaged" in caplog.text


def test_journal_of_another_fingerprint_is_removed(tmp_path):
    path = tmp_path / "x.journal"
    Journal(path, "a").add(0, VERDICTS)
    assert not Journal(path, "b").parts
    assert not path.exists()

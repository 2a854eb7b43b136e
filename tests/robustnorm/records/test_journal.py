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

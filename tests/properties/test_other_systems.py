"""Systems without POSIX's locks, limits and signals."""

import logging
import signal

from robustnorm.system import files, memory, stopping
from robustnorm.system.files import exclusive, write_atomically
from robustnorm.system.stopping import SignalStop


def test_folder_without_locks_is_used_with_a_warning(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(files, "_HAS_LOCKS", False)
    with caplog.at_level(logging.WARNING), exclusive(tmp_path):
        write_atomically(tmp_path / "file", b"content")
    assert (tmp_path / "file").read_bytes() == b"content"
    assert "is not locked on this system: do not start a second run there" in caplog.text


def test_peak_memory_is_unknown_without_resource(monkeypatch):
    import torch

    monkeypatch.setattr(memory, "_HAS_LIMITS", False)
    assert memory.peak_memory(torch.device("cpu")) == "an unknown amount of this process"


def test_signals_that_a_system_lacks_are_left_out(monkeypatch):
    monkeypatch.setattr(stopping, "_SIGNALS", ("SIGTERM", "SIGNONE"))
    before = signal.getsignal(signal.SIGUSR1)
    with SignalStop().installed():
        assert signal.getsignal(signal.SIGUSR1) is before
        assert signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL

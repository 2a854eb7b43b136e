"""Systems without POSIX's limits and signals."""

import signal

from robustnorm.system import memory, stopping
from robustnorm.system.stopping import SignalStop


def test_peak_memory_is_unknown_without_resource(monkeypatch):
    import torch

    monkeypatch.setattr(memory, "_HAS_LIMITS", False)
    assert memory.peak_memory(torch.device("cpu")) == "an unknown amount"


def test_signals_that_a_system_lacks_are_left_out(monkeypatch):
    monkeypatch.setattr(stopping, "_SIGNALS", ("SIGTERM", "SIGNONE"))
    before = signal.getsignal(signal.SIGUSR1)
    with SignalStop().installed():
        assert signal.getsignal(signal.SIGUSR1) is before
        assert signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL

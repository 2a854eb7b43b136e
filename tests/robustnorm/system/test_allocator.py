import ctypes
import platform

import pytest
from processes import CONTEXT, put_faults

from robustnorm.system.allocator import keep_freed_memory


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="a setting of glibc's malloc")
def test_kept_memory_is_not_mapped_again():
    faults, found = {}, CONTEXT.SimpleQueue()
    for setting in ("keep", "default"):
        CONTEXT.Process(target=put_faults, args=(setting == "keep", found)).start()
        faults[setting] = found.get()
    assert 0 <= faults["keep"] < faults["default"] / 4


def test_other_allocators_are_left_alone(monkeypatch):
    monkeypatch.setattr(ctypes, "CDLL", lambda name: object())
    assert not keep_freed_memory()

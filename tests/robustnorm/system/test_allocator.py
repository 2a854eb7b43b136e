import ctypes
import platform
import subprocess
import sys

import pytest

from robustnorm.system.allocator import keep_freed_memory

FAULTS = """
import resource, sys
import torch
from robustnorm.system.allocator import keep_freed_memory
if sys.argv[1] == "keep":
    assert keep_freed_memory()
torch.set_num_threads(1)
for _ in range(50):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.ones(40 << 20, dtype=torch.uint8)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="a setting of glibc's malloc")
def test_kept_memory_is_not_mapped_again():
    faults = {
        setting: int(subprocess.check_output([sys.executable, "-c", FAULTS, setting]))
        for setting in ("keep", "default")
    }
    assert faults["keep"] < faults["default"] / 4


def test_other_allocators_are_left_alone(monkeypatch):
    monkeypatch.setattr(ctypes, "CDLL", lambda name: object())
    assert not keep_freed_memory()

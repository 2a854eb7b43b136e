"""Program that builds each malicious file, reads it in its own process and prints the outcome."""

import json
import os
import resource
import sys
import time
from pathlib import Path

import malicious_arrays
import malicious_budget
import malicious_images
import malicious_text
import malicious_weights
import torch
from malicious_case import CASES

from robustnorm import resnet18

__all__ = [
    "CASES",
    "malicious_arrays",
    "malicious_budget",
    "malicious_images",
    "malicious_text",
    "malicious_weights",
]


def files(folder):
    """Every file below a folder."""
    return {str(path) for path in folder.rglob("*") if not path.is_dir()}


def attempt(read):
    """Returns the outcome of reading a file in this process, which then ends."""
    pages = Path("/proc/self/statm").read_text().split()
    used, resident = (int(count) * resource.getpagesize() for count in pages[:2])
    resource.setrlimit(resource.RLIMIT_AS, (used + 2**30,) * 2)  # the machine is not taken along
    start = time.process_time()  # of this process alone, however busy the machine is
    try:
        read()
        error = None
    except Exception as raised:
        error = raised
    return {
        "seconds": time.process_time() - start,
        "megabytes": (1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - resident) / 1e6,
        "error": type(error).__name__,
        "status": int(getattr(error, "status", 0)),
        "message": str(error),
    }


def outcome(name, folder):
    folder.mkdir()
    os.chdir(folder)
    read = CASES[name](folder)
    before = files(folder.parent)
    receive, send = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(send, json.dumps(attempt(read)).encode())
        os._exit(0)
    os.close(send)
    with os.fdopen(receive, "rb") as pipe:
        found = json.loads(pipe.read() or b"{}")
    os.waitpid(child, 0)
    return found | {"made": sorted(files(folder.parent) - before)}


if __name__ == "__main__":
    torch.set_num_threads(1)
    with torch.device("meta"):  # its first use imports for a second, whatever the file
        resnet18(width=1)
    place = Path(sys.argv[1])
    names = sys.argv[2:] or list(CASES)
    print(json.dumps({name: outcome(name, place / name) for name in names}))  # noqa: T201

"""The command line in a process of its own, which starts in milliseconds.

It is forked from a server that has imported the package once, instead of a new Python that spends
seconds on importing torch.
"""

import multiprocessing
import os
import resource
import signal
import sys
import threading
from pathlib import Path

from robustnorm import cli
from robustnorm.data import load_dataset
from robustnorm.models import NETWORKS
from robustnorm.system.allocator import keep_freed_memory

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload([
    *("robustnorm.work.train", "robustnorm.work.campaign", "robustnorm.work.report"),
    *("robustnorm.data.loading", "sklearn.datasets"),
])  # fmt: skip


def command(*words, before=None):
    """Starts a command of ``robustnorm``; the process's ``stderr`` is a stream to read.

    Args:
        words: Of the command line.
        before: Function to call first; of a module that other processes can import.
    """
    pipe = Path("errors-of-the-process")
    os.mkfifo(pipe)
    process = CONTEXT.Process(target=_run, args=(words, pipe, before))
    process.start()
    process.stderr = pipe.open()
    pipe.unlink()
    return process


def _run(words, pipe, before):
    import torch

    torch.set_num_threads(1)  # as in the tests' own process: it orders the sums
    os.dup2(os.open(pipe, os.O_WRONLY), 2)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    NETWORKS["tiny"] = "tiny_network:tiny"
    if before:
        before()
    sys.exit(cli.main(words))


def end(process):
    """Waits until a process has ended; returns its exit status and what is left of its errors."""
    with process.stderr as stream:
        error = stream.read()
    process.join()
    return process.exitcode, error


def kill(process):
    """Ends a process at once."""
    os.kill(process.pid, signal.SIGKILL)
    end(process)


def read_together(data, cache, together, hashes):
    """Loads a data set when the other processes do, and puts its hash."""
    together.wait(60)
    hashes.put(load_dataset(data, root=cache).sha256)


def put_faults(keep, found):
    """Puts the number of page faults of 50 large tensors, or -1 where memory cannot be kept."""
    import torch

    torch.set_num_threads(1)
    if keep and not keep_freed_memory():
        found.put(-1)
        return
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(50):
        torch.ones(40 << 20, dtype=torch.uint8)
    found.put(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)


def signal_after_step(at, forever=False):
    """Signals this process after a step, as a scheduler would at any time.

    Args:
        at: The step, counted from 1.
        forever: Whether the step then never ends.
    """
    import torch

    step, taken = torch.optim.SGD.step, iter(range(1, sys.maxsize))

    def signalled(self, *arguments, **options):
        step(self, *arguments, **options)
        if next(taken) == at:
            os.kill(os.getpid(), signal.SIGTERM)
            if forever:
                threading.Event().wait()

    torch.optim.SGD.step = signalled

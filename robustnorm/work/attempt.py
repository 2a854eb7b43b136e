"""One attempt at a job, in any process."""

from __future__ import annotations

import contextlib
import traceback
from pathlib import Path
from typing import NamedTuple

import torch

from robustnorm.models import NETWORKS
from robustnorm.system.allocator import keep_freed_memory
from robustnorm.system.errors import UserError
from robustnorm.system.stopping import ShouldStop, Stopped, never
from robustnorm.work.jobs import Job

# Number of attempts at a job whose process dies, before the job counts as failed.
ATTEMPTS = 6
LOST = (
    f"its process died {ATTEMPTS} times: it was killed, or ran out of memory; free some memory, or "
    "use fewer workers"
)


class JobEnvironment(NamedTuple):
    """Where and how a job's process runs it.

    Args:
        folder: Absolute path of the working folder; paths in the settings are relative to it.
        threads: Number of CPU threads for torch; torch's default if None.
        networks: Names of networks in modules, such as ``module:function``, that the user typed and
            whose modules may therefore be imported.
    """

    folder: str
    threads: int | None = None
    networks: tuple[str, ...] = ()


def attempt(job: Job, environment: JobEnvironment, should_stop: ShouldStop = never) -> str | None:
    """Runs a job unless it is done; returns why it failed, or None on success.

    Raises:
        Stopped: When ``should_stop`` asks for it.
    """
    keep_freed_memory()
    if environment.threads is not None:
        torch.set_num_threads(environment.threads)
    try:
        with contextlib.chdir(Path(environment.folder)), NETWORKS.typed(*environment.networks):
            if not job.done():
                job.run(should_stop)
    except Stopped:
        raise
    except Exception as error:  # reported at the end under the job's name; other jobs continue
        return reason_of(error)
    return None


def reason_of(error: Exception) -> str:
    """Returns why a job failed: the message of an error that the user can fix, or the traceback."""
    if isinstance(error, (UserError, ImportError)):
        return str(error)
    return "".join(traceback.format_exception(error)).strip()


def is_done(job: Job) -> bool:
    """Returns whether a job is known to be done; ``attempt`` says why when that cannot be told."""
    try:
        return job.done()
    except Exception:
        return False

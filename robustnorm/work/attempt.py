"""One attempt at a job, wherever it runs."""

from __future__ import annotations

import contextlib
import traceback
from pathlib import Path
from typing import NamedTuple

import torch

from robustnorm.system.allocator import keep_freed_memory
from robustnorm.system.errors import UserError
from robustnorm.system.stopping import ShouldStop, Stopped, never
from robustnorm.work.jobs import Job

# Times that a job is begun whose process died, before it counts as failed.
ATTEMPTS = 6
LOST = (
    f"its process died {ATTEMPTS} times, out of memory or killed; give it more memory, or fewer "
    "workers"
)


class Place(NamedTuple):
    """Where a job runs.

    Args:
        folder: Absolute; to it are relative the paths in the settings.
        threads: CPU threads of torch; as they are by default.
    """

    folder: str
    threads: int | None = None


def attempt(job: Job, place: Place, should_stop: ShouldStop = never) -> str | None:
    """Does a job unless it is done; returns why it failed, None where it did not.

    Raises:
        Stopped: When ``should_stop`` says so.
    """
    keep_freed_memory()
    if place.threads is not None:
        torch.set_num_threads(place.threads)
    try:
        with contextlib.chdir(Path(place.folder)):
            if not job.done():
                job.run(should_stop)
    except Stopped:
        raise
    except (UserError, ImportError) as error:
        return str(error)
    except Exception:  # told at the end, by the job's name; it stops no other job
        return traceback.format_exc().strip()
    return None

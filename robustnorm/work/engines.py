"""Engines that run the jobs of a sweep: this process, local processes, Ray, or Slurm."""

from __future__ import annotations

import logging
import os
import shutil
import signal
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, Protocol

import torch

from robustnorm.models import NETWORKS
from robustnorm.system.errors import UsageError
from robustnorm.system.stopping import ShouldStop, Stopped
from robustnorm.work.attempt import ATTEMPTS, LOST, JobEnvironment, attempt, is_done
from robustnorm.work.jobs import Job
from robustnorm.work.workers import POLL_SECONDS, Workers


class EngineSettings(Protocol):
    """Settings of an engine; ``SweepSettings`` documents them."""

    @property
    def engine(self) -> Literal["local", "ray", "submitit"]: ...
    @property
    def workers(self) -> int: ...
    @property
    def threads(self) -> int | None: ...
    @property
    def gpus(self) -> float: ...
    @property
    def slurm(self) -> dict[str, Any]: ...
    @property
    def device(self) -> str | None: ...
    @property
    def reports(self) -> str | None: ...


# An engine runs jobs in any order and yields each with None once it is done, or with the reason for
# its failure. It raises Stopped when asked to stop.
Results = Generator[tuple[Job, str | None], None, None]
Engine = Callable[[Sequence[Job], ShouldStop], Results]


def check_engine(settings: EngineSettings) -> None:
    """Checks before any work that the engine can be used here.

    Raises:
        ImportError: When its package is not installed.
        UsageError: When Slurm is not available.
    """
    if settings.engine != "local" and find_spec(settings.engine) is None:
        raise ImportError(
            f"engine {settings.engine} needs the package {settings.engine}, which is not "
            "installed; install the extra: pip install 'robustnorm[cluster]'"
        )
    if settings.engine == "submitit" and shutil.which("srun") is None:
        raise UsageError(
            "engine submitit needs Slurm, but there is no srun on this machine; start the sweep "
            "where jobs are submitted, or use --engine local --workers N"
        )


@contextmanager
def open_engine(settings: EngineSettings) -> Iterator[Engine]:
    """Opens the engine that the settings name; after the block, ends everything that it started."""
    folder, typed = str(Path.cwd()), NETWORKS.typed_names
    if settings.engine == "ray":
        with _ray(settings, JobEnvironment(folder, settings.threads or 1, typed)) as engine:
            yield engine
    elif settings.engine == "submitit":
        yield _submitit(settings, JobEnvironment(folder, settings.threads or 1, typed))
    elif settings.workers == 0:
        environment = JobEnvironment(folder, settings.threads, typed)
        yield partial(_run_here, environment)
    else:
        share = max(1, torch.get_num_threads() // settings.workers)
        workers = Workers(
            settings.workers, JobEnvironment(folder, settings.threads or share, typed)
        )
        try:
            yield workers.run
        finally:
            workers.close()


def _run_here(environment: JobEnvironment, jobs: Sequence[Job], should_stop: ShouldStop) -> Results:
    for number, job in enumerate(jobs):
        if should_stop(0.0):
            raise Stopped(f"{len(jobs) - number} jobs are left")
        yield job, attempt(job, environment, should_stop)


@contextmanager
def _ray(settings: EngineSettings, environment: JobEnvironment) -> Iterator[Engine]:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # sends nothing to Ray's developers
    import ray

    starts_ray = not ray.is_initialized()
    if starts_ray:
        handler = signal.getsignal(signal.SIGTERM)  # ray.init replaces it
        ray.init(log_to_driver=False, logging_level=logging.WARNING)
        signal.signal(signal.SIGTERM, handler)
    device = settings.device or "auto"
    on_gpu = device.startswith("cuda") or (
        device == "auto" and ray.cluster_resources().get("GPU", 0) > 0  # type: ignore[no-untyped-call]
    )
    remote = ray.remote(attempt).options(
        num_cpus=environment.threads,
        num_gpus=settings.gpus if on_gpu else 0,
        max_retries=ATTEMPTS - 1,
    )

    def run(jobs: Sequence[Job], should_stop: ShouldStop) -> Results:
        waiting = {remote.remote(job, environment): job for job in jobs}
        while waiting:
            if should_stop(0.0):
                for running in waiting:
                    ray.cancel(running, force=True)
                raise Stopped(f"{len(waiting)} jobs are left")
            ready, _ = ray.wait(list(waiting), num_returns=1, timeout=POLL_SECONDS)
            for result in ready:
                try:
                    failure = ray.get(result)
                except ray.exceptions.WorkerCrashedError:
                    failure = LOST
                except ray.exceptions.RayError as error:
                    failure = str(error)
                yield waiting.pop(result), failure

    try:
        yield run
    finally:
        if starts_ray:
            ray.shutdown()


def _submitit(settings: EngineSettings, environment: JobEnvironment) -> Engine:
    import submitit
    from submitit.helpers import DelayedSubmission

    class Share:
        """Runs a share of the jobs; when its time limit ends, it is queued again for the rest."""

        def __call__(self, jobs: Sequence[Job]) -> list[str | None]:
            return [attempt(job, environment) for job in jobs]

        def checkpoint(self, jobs: Sequence[Job]) -> DelayedSubmission:
            return DelayedSubmission(self, jobs)

    executor = submitit.AutoExecutor(Path(settings.reports or "reports") / "slurm")
    executor.update_parameters(
        name="robustnorm", cpus_per_task=environment.threads or 1, **settings.slurm
    )

    def run(jobs: Sequence[Job], should_stop: ShouldStop) -> Results:
        # One Slurm job per worker: schedulers accept hundreds of jobs, sweeps have thousands.
        shares = [jobs[number :: settings.workers] for number in range(settings.workers)]
        with executor.batch():
            submitted = {executor.submit(Share(), share): share for share in shares if share}
        while submitted:
            if should_stop(0.0):
                for slurm_job in submitted:
                    slurm_job.cancel()
                raise Stopped(f"{sum(map(len, submitted.values()))} jobs are left")
            for slurm_job in [each for each in submitted if each.done()]:
                share = submitted.pop(slurm_job)
                try:
                    failures = slurm_job.result()
                except Exception as error:  # from Slurm or submitit: the Slurm job has died
                    failures = [None if is_done(job) else str(error) for job in share]
                yield from zip(share, failures, strict=True)
            time.sleep(POLL_SECONDS)

    return run

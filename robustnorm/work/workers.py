"""Local processes that run jobs; if one dies, it is replaced and its job is run again.

The standard library's pool breaks when a process dies. Pebble's pool survives this but does not
retry the job; it also kills processes three seconds after asking them to end, which is too soon for
a training that saves its state, and it is under the LGPL.
"""

from __future__ import annotations

import contextlib
import logging
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Generator, Sequence
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from multiprocessing import forkserver
from multiprocessing.connection import Connection
from queue import SimpleQueue

from robustnorm.system.stopping import ShouldStop, SignalStop, Stopped, never
from robustnorm.work.attempt import ATTEMPTS, LOST, JobEnvironment, attempt
from robustnorm.work.jobs import Job

# Seconds between two calls of ``should_stop``.
POLL_SECONDS = 1.0
# Seconds that a process has to save its state when it is asked to end.
_GRACE = 10.0
# Workers are not forked from this process, whose threads and GPU would not survive that, but from a
# server that has only imported what jobs need: they start at once and share its memory.
_SERVER = "forkserver" in multiprocessing.get_all_start_methods()
_CONTEXT = (
    multiprocessing.get_context("forkserver") if _SERVER else multiprocessing.get_context("spawn")
)


class Workers:
    """Processes that run jobs, started when first needed.

    Args:
        count: Number of processes.
        environment: Working folder and threads.
    """

    def __init__(self, count: int, environment: JobEnvironment) -> None:
        if _SERVER:
            _start_server()
        self._workers = [_Worker(environment) for _ in range(count)]

    def run(
        self, jobs: Sequence[Job], should_stop: ShouldStop = never
    ) -> Generator[tuple[Job, str | None], None, None]:
        """Yields each job with None once it is done, or with the reason for its failure.

        Raises:
            Stopped: When ``should_stop`` asks for it; running jobs are abandoned.
        """
        idle: SimpleQueue[_Worker] = SimpleQueue()
        for worker in self._workers:
            idle.put(worker)

        def do(job: Job) -> str | None:
            worker = idle.get()
            try:
                return worker.do(job)
            finally:
                idle.put(worker)

        with ThreadPoolExecutor(len(self._workers)) as threads:
            futures = {threads.submit(do, job): job for job in jobs}
            try:
                waiting = set(futures)
                while waiting:
                    if should_stop(0.0):
                        raise Stopped(f"{len(waiting)} jobs are left")
                    done, waiting = wait(waiting, POLL_SECONDS, FIRST_COMPLETED)
                    yield from ((futures[future], future.result()) for future in done)
            finally:  # there is something left to cancel only when the sweep is abandoned
                threads.shutdown(wait=False, cancel_futures=True)
                if not all(future.done() for future in futures):
                    self._give_up()

    def close(self) -> None:
        """Ends the processes, which must be idle."""
        for worker in self._workers:
            worker.close()
        for worker in self._workers:
            worker.join()

    def _give_up(self) -> None:
        for worker in self._workers:
            worker.terminate()
        for worker in self._workers:
            worker.join()


def _start_server() -> None:
    """Starts the server with this process's import path, which it does not inherit.

    Without PYTHONSAFEPATH it would import a ``torch.py`` in the working folder instead of torch.
    """
    wanted = {"PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "PYTHONSAFEPATH": "1"}
    before = {name: os.environ.get(name) for name in wanted}
    os.environ |= wanted
    try:
        forkserver.set_forkserver_preload(["robustnorm.work.attempt"])
        forkserver.ensure_running()
    finally:
        for name, value in before.items():
            os.environ.pop(name)
            if value is not None:
                os.environ[name] = value


class _Worker:
    """A process that runs one job after the other."""

    def __init__(self, environment: JobEnvironment) -> None:
        self._environment = environment
        self._process: multiprocessing.process.BaseProcess | None = None
        self._connection: Connection | None = None
        self._ended = False
        self._lock = threading.Lock()  # no process may start while all are being ended

    def do(self, job: Job) -> str | None:
        for _ in range(ATTEMPTS):
            with self._lock:
                if self._ended:
                    break
                if self._connection is None:
                    self._connection = self._begin()
            try:
                self._connection.send(job)
                failure: str | None = self._connection.recv()
                return failure
            except (EOFError, OSError):  # the process died
                self._connection.close()
                self._connection = None
        return LOST

    def _begin(self) -> Connection:
        here, there = _CONTEXT.Pipe()
        process = _CONTEXT.Process(target=_serve, args=(there, self._environment), daemon=True)
        process.start()
        self._process = process  # only once started: Ctrl-C may have ended the server
        there.close()  # now only the worker holds this end: when it dies, receiving ends
        return here

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()

    def terminate(self) -> None:
        with self._lock:
            self._ended = True
            if self._process is not None:
                self._process.terminate()

    def join(self) -> None:
        if self._process is not None:
            self._process.join(_GRACE)
            self._process.kill()
            self._process.join()


def _serve(connection: Connection, environment: JobEnvironment) -> None:
    """Runs incoming jobs until no sender is left."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent handles Ctrl-C and ends this process
    log = logging.getLogger("robustnorm")
    log.setLevel(logging.INFO)
    log.addHandler(logging.StreamHandler())
    # Only the parent shows a progress bar.
    sys.stderr.isatty = lambda: False  # type: ignore[method-assign]
    stop = SignalStop()  # when the parent ends this process, training saves its state first
    with stop.installed(), contextlib.suppress(EOFError, OSError, Stopped):
        while not stop.received:
            connection.send(attempt(connection.recv(), environment, stop))

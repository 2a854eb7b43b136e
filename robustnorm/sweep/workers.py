"""Processes of this machine that do jobs; one that dies is replaced, and its job done again."""

from __future__ import annotations

import contextlib
import logging
import multiprocessing
import signal
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from multiprocessing.connection import Connection
from queue import SimpleQueue

from robustnorm.sweep.attempt import ATTEMPTS, LOST, Place, attempt
from robustnorm.sweep.jobs import Job

# Seconds that a process is given to save its state when it is told to end.
_GRACE = 10.0


class Workers:
    """Processes that do jobs, begun when they are first needed.

    Args:
        count: Of processes.
        place: Of the jobs.
    """

    def __init__(self, count: int, place: Place) -> None:
        self._workers = [_Worker(place) for _ in range(count)]

    def run(self, jobs: Sequence[Job]) -> Iterator[tuple[Job, str | None]]:
        """Yields each job when it is done or has failed."""
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
                for future in as_completed(futures):
                    yield futures[future], future.result()
            except BaseException:
                threads.shutdown(wait=False, cancel_futures=True)
                self.close()
                raise

    def close(self) -> None:
        """Ends the processes; jobs that they are at are given up."""
        for worker in self._workers:
            worker.end()
        for worker in self._workers:
            worker.join()


class _Worker:
    """One process, which does one job after the other."""

    def __init__(self, place: Place) -> None:
        self._place = place
        self._process: multiprocessing.process.BaseProcess | None = None
        self._connection: Connection | None = None
        self._ended = False

    def do(self, job: Job) -> str | None:
        for _ in range(ATTEMPTS):
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
        # Not forked: threads and a GPU's state do not survive a fork.
        context = multiprocessing.get_context("spawn")
        here, there = context.Pipe()
        self._process = context.Process(target=_serve, args=(there, self._place), daemon=True)
        self._process.start()
        there.close()  # the process alone holds it: when it dies, receiving ends
        return here

    def end(self) -> None:
        self._ended = True
        if self._process is not None:
            self._process.terminate()

    def join(self) -> None:
        if self._process is not None:
            self._process.join(_GRACE)
            self._process.kill()
            self._process.join()


def _serve(connection: Connection, place: Place) -> None:
    """Does the jobs that come, until nobody is left to send any."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's, who ends this process
    log = logging.getLogger("robustnorm")
    log.setLevel(logging.INFO)
    log.addHandler(logging.StreamHandler())
    sys.stderr.isatty = lambda: False  # type: ignore[method-assign]  # the parent has the one bar
    with contextlib.suppress(EOFError, OSError):
        while True:
            connection.send(attempt(connection.recv(), place))

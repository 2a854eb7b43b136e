"""Workers killed at random moments while they evaluate: nothing may be lost or exist twice.

    python -m benchmarks.soak.workers [--kills 30]

A small network is evaluated in one process; then by 1, 2, 3, 5 and 7 workers; then, in one
evaluation after another, by Ray, whose workers are killed with SIGKILL until the number of kills is
reached.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import shutil
import signal
import sys
import threading
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from tempfile import TemporaryDirectory

import ray
from tabulate import tabulate

from benchmarks.workload import machine
from robustnorm.evaluation.protocol import record_path
from robustnorm.records.digests import digest_of_verdicts
from robustnorm.records.record import Record
from robustnorm.runs import Run
from robustnorm.settings.config import Config
from robustnorm.settings.sweep import SweepSettings
from robustnorm.system.stopping import never
from robustnorm.work.engines import open_engine
from robustnorm.work.evaluate import evaluate_records
from robustnorm.work.jobs import RecordJob, record_job
from robustnorm.work.train import train_run

# Two chunks of images and a part of one; with two branches and four attacks, 24 jobs.
SMALL = Config(
    name="small",
    norm="auxbn",
    train_limit=64,
    validation=20,
    width=4,
    epochs=1,
    batch_size=32,
    epsilon=Fraction(3, 16),
    step_size=Fraction(3, 64),
    train_steps=1,
    validation_steps=1,
    test_limit=230,
    attacks=("fgsm", "pgd-5-margin", "pgd-5-dlr"),
    checks="none",
    device="cpu",
)
COUNTS = (1, 2, 3, 5, 7)
RAY_WORKERS = 3


class Killer(threading.Thread):
    """Kills workers of this process's Ray at random moments, each time after a job was finished.

    Args:
        results: Folder of the jobs' results.
        kills: Largest number of kills.
        dice: Chooses the moment and the worker.
    """

    def __init__(self, results: Path, kills: int, dice: random.Random) -> None:
        super().__init__(daemon=True)
        self._results, self._most, self._dice = results, kills, dice
        self.kills = 0
        self.ended = threading.Event()

    def run(self) -> None:
        finished = 0
        while self.kills < self._most and not self.ended.wait(0.05):
            now = len(list(self._results.glob("*.journal")))
            workers = working()
            if now == finished or not workers:
                continue
            self.ended.wait(self._dice.uniform(0, 0.5))
            with contextlib.suppress(ProcessLookupError):  # it has just ended
                os.kill(self._dice.choice(workers), signal.SIGKILL)
                self.kills += 1
                finished = now


def working() -> list[int]:
    """Returns the ids of the processes in which this process's Ray is running a job."""
    parents, workers = {}, []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            parents[int(folder.name)] = int(
                (folder / "stat").read_text().rpartition(")")[2].split()[1]
            )
            if (folder / "cmdline").read_bytes().startswith(b"ray::attempt"):
                workers.append(int(folder.name))
    return [
        pid for pid in workers if os.getpid() in (parents.get(parents.get(pid, 0)), parents[pid])
    ]


def evaluate_by(
    settings: SweepSettings, config: Config, kills: int, dice: random.Random
) -> tuple[Record, int, int]:
    """Evaluates as jobs; returns the record, and the numbers of kills and of repeated jobs."""
    folder = config.folder
    job = record_job(Run.open(folder, config.checkpoint), config)
    killer = Killer(job.attacks[0].path.parent, kills, dice)
    again = 0
    with open_engine(settings) as engine:
        killer.start()
        for jobs in (job.attacks, [job]):
            if jobs == [job]:
                check_files(job)
            while waiting := [each for each in jobs if not each.done()]:
                ran = [each for each, _ in engine(waiting, never)]
                assert sorted(each.name for each in ran) == sorted(each.name for each in waiting)
                again += sum(not each.done() for each in waiting)
        killer.ended.set()
        killer.join()
    return Record.load(record_path(config.reports_folder, folder, config)), killer.kills, again


def check_files(job: RecordJob) -> None:
    """Raises unless the folder of results holds exactly those of the jobs."""
    found = {path.name for path in job.attacks[0].results.glob("*.journal")}
    assert found == {each.path.name for each in job.attacks}


def main() -> None:
    """Evaluates in all ways and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=30)
    kills = parser.parse_args().kills
    dice = random.Random(0)
    rows: list[tuple[str | int, ...]] = []
    # Ray reports dead workers on stdout, whatever its settings.
    aside = contextlib.redirect_stdout(sys.stderr)
    with TemporaryDirectory() as folder, contextlib.chdir(folder), aside:
        train_run(SMALL)
        [expected] = evaluate_records(SMALL)
        rows.append(("one process, no jobs", "-", "-", digest_of_verdicts(expected), "-"))
        for count in COUNTS:
            config = replace(SMALL, reports=f"local{count}")
            settings = SweepSettings(configs=["digits"], device="cpu", workers=count)
            record, _, again = evaluate_by(settings, config, 0, dice)
            rows.append(
                (f"{count} workers", 0, again, digest_of_verdicts(record), same(record, expected))
            )
        ray.init("local", num_cpus=RAY_WORKERS, include_dashboard=False, log_to_driver=False)
        settings = SweepSettings(configs=["digits"], device="cpu", engine="ray")
        killed, evaluations, again, differing = 0, 0, 0, 0
        while killed < kills:
            config = replace(SMALL, reports=f"ray{evaluations}")
            record, more, redone = evaluate_by(settings, config, kills - killed, dice)
            killed, evaluations, again = killed + more, evaluations + 1, again + redone
            differing += same(record, expected) != "yes"
            shutil.rmtree(config.reports)
        ray.shutdown()
        rows.append(
            (
                f"Ray, {RAY_WORKERS} workers, {evaluations} evaluations",
                killed,
                again,
                digest_of_verdicts(record),
                "no" if differing else "yes",
            )
        )
    print(
        f"## Workers killed during evaluation\n\nResNet-18 of width 4, {expected.n} digits, two "
        f"branches, four attacks: 24 jobs per evaluation; {machine()}. A job is run again when its "
        "worker dies, up to six times in all; beyond that, the same sweep is started again. Each "
        "image must have exactly one verdict for each attack and branch, or merging fails.\n"
    )
    headers = (
        "by",
        "workers killed",
        "jobs left to another sweep",
        "digest of all verdicts",
        "same bits",
    )
    print(tabulate(rows, headers=headers, tablefmt="pipe"))


def same(record: Record, expected: Record) -> str:
    """Returns whether two records have the same verdicts, image by image."""
    return "yes" if digest_of_verdicts(record) == digest_of_verdicts(expected) else "no"


if __name__ == "__main__":
    main()

"""A small sweep, and jobs that misbehave; importable in any process."""

import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path

from robustnorm.evaluation.protocol import record_path
from robustnorm.records.record import Record
from robustnorm.runs import Run
from robustnorm.settings.sweep import SweepSettings, sweep_plans
from robustnorm.work.jobs import Job, record_job

# Two steps and one epoch a run; an evaluation of two chunks, the last one short.
SETTINGS = {
    "network": "tiny_network:tiny",
    "train_limit": 64, "validation": 20, "width": 4, "epochs": 1, "batch_size": 32,
    "epsilon": "3/16", "step_size": "3/64", "train_steps": 1, "validation_steps": 1,
    "test_limit": 130, "checks": "none", "attacks": ["fgsm", "pgd-20"], "device": "cpu",
}  # fmt: skip
RUN = Path("checkpoints/digits/auxbn-seed0")


def read_config(**changes):
    """Returns the config of the run, with changes."""
    where = {"configs": ["digits"], "device": "cpu"}
    settings = {key: value for key, value in (SETTINGS | changes).items() if key != "device"}
    return sweep_plans(SweepSettings(settings=settings, **where))[0].evaluations[""]


def make_record_job(**changes):
    """Returns the job of the record in the working folder."""
    config = read_config(**changes)
    return record_job(Run.open(RUN, config.checkpoint), config)


def load_record(config):
    """Returns the record in the working folder."""
    return Record.load(record_path(config.reports_folder, RUN, config))


@dataclass(frozen=True)
class Killed:
    """Kills its process the first few times, then does a job."""

    job: Job
    marks: Path
    times: int = 1

    @property
    def name(self):
        return f"killed, {self.job.name}"

    def done(self):
        return self.job.done()

    def run(self, should_stop=None):
        count = len(list(self.marks.glob("*")))
        if count < self.times:
            (self.marks / str(count)).touch()
            os.kill(os.getpid(), signal.SIGKILL)
        self.job.run()


@dataclass(frozen=True)
class Writes:
    """Writes one file."""

    path: Path

    @property
    def name(self):
        return f"write {self.path.name}"

    def done(self):
        return self.path.exists()

    def run(self, should_stop=None):
        self.path.touch()


@dataclass(frozen=True)
class Fails(Writes):
    """Ends in an unexpected error."""

    def run(self, should_stop=None):
        raise ZeroDivisionError("nobody foresaw this")


@dataclass(frozen=True)
class Waits(Writes):
    """Does not end within a test."""

    def run(self, should_stop=None):
        time.sleep(600)

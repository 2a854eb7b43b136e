"""Engines do every job once and say which failed; processes that are killed lose nothing."""

import functools
import os
import subprocess
import sys
from pathlib import Path

import pytest
from sweep_jobs import Fails, Killed, Waits, Writes, load_record, make_record_job

from robustnorm import cli
from robustnorm.records.digests import digest_of_verdicts
from robustnorm.settings.sweep import SweepSettings
from robustnorm.system.stopping import Stopped, never
from robustnorm.work import engines
from robustnorm.work.attempt import ATTEMPTS, LOST
from robustnorm.work.engines import open_engine

pytestmark = pytest.mark.slow


def run(jobs, **settings):
    """Returns the reason of each failed job by name; each is reported once."""
    with open_engine(SweepSettings(configs=["digits"], device="cpu", **settings)) as engine:
        told = [(job.name, reason) for job, reason in engine(jobs, never)]
    assert sorted(name for name, _ in told) == sorted(job.name for job in jobs)
    return {name: reason for name, reason in told if reason is not None}


@pytest.fixture
def marks(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "marks").mkdir()
    return tmp_path / "marks"


@pytest.fixture(scope="module")
def cluster():
    """A Ray cluster of two CPUs."""
    ray = pytest.importorskip("ray")
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join(sys.path)  # where the jobs of these tests are found
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    ray.init("local", num_cpus=2, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()
    if before is None:
        del os.environ["PYTHONPATH"]
    else:
        os.environ["PYTHONPATH"] = before


@pytest.fixture
def slurm(monkeypatch):
    """Submitit's executor for one machine, in place of Slurm's."""
    submitit = pytest.importorskip("submitit")
    local = functools.partial(submitit.AutoExecutor, cluster="local")
    monkeypatch.setattr(submitit, "AutoExecutor", local)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
    return {"engine": "submitit", "workers": 2}


@pytest.mark.parametrize("workers", [0, 2])
def test_local_engine_tells_failures_and_does_the_others(marks, workers):
    jobs = [Writes(Path("a")), Fails(Path("b")), Writes(Path("c"))]
    failures = run(jobs, workers=workers)
    assert list(failures) == ["write b"]
    assert "ZeroDivisionError: nobody foresaw this" in failures["write b"]
    assert Path("a").exists()
    assert Path("c").exists()


def test_workers_import_nothing_from_the_working_folder(marks):
    for name in ("torch", "safetensors", "numpy"):
        Path(f"{name}.py").write_text("open('owned', 'w').close()\n")
    program = Path("elsewhere/program.py")
    program.parent.mkdir()
    program.write_text(
        "from pathlib import Path; from robustnorm.work.workers import Workers; "
        "from robustnorm.work.attempt import JobEnvironment\n"
        "if __name__ == '__main__':\n"
        "    from sweep_jobs import Writes\n"
        "    workers = Workers(1, JobEnvironment(str(Path.cwd())))\n"
        "    print([failure for _, failure in workers.run([Writes(Path('a'))])])\n"
        "    workers.close()\n"
    )
    path = os.pathsep.join(filter(None, sys.path))
    done = subprocess.run(
        [sys.executable, program],
        env=os.environ | {"PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout == "[None]\n", done.stderr
    assert Path("a").exists()
    assert not Path("owned").exists()


def test_workers_do_again_what_a_killed_one_was_at(marks):
    jobs = [Writes(Path(str(number))) for number in range(9)]
    killed = [Killed(job, marks, times=3) for job in jobs[::3]]
    assert not run([*jobs[1::3], *killed, *jobs[2::3]], workers=2)
    assert len(list(marks.iterdir())) == 3
    assert all(job.done() for job in jobs)


def test_workers_give_up_a_job_that_kills_them_every_time(marks):
    jobs = [Killed(Writes(Path("a")), marks, times=99), Writes(Path("b")), Writes(Path("c"))]
    assert run(jobs, workers=2) == {jobs[0].name: LOST}
    assert len(list(marks.iterdir())) == ATTEMPTS
    assert jobs[1].done()
    assert jobs[2].done()


@pytest.mark.parametrize("workers", [0, 2])
def test_local_engine_gives_up_what_is_left_when_it_is_stopped(marks, workers):
    class StopsAfter(list):
        def __call__(self, _seconds):
            return len(self) > 0

    told = StopsAfter()
    jobs = [Writes(Path("a")), *(Waits(Path(name)) for name in "bc")]
    settings = SweepSettings(configs=["digits"], workers=workers)
    with open_engine(settings) as engine:
        results = engine(jobs, told)
        told.append(next(results)[0].name)
        with pytest.raises(Stopped, match="2 jobs are left"):
            next(results)
    assert told == ["write a"]


@pytest.mark.parametrize("workers", [1, 2, 3, 5, 7])
def test_digest_is_the_same_for_any_number_of_workers(trained, record, marks, workers):
    job = make_record_job()
    jobs = list(job.attacks)
    jobs[4] = Killed(jobs[4], marks)
    assert not run(jobs, workers=workers)
    assert not run([job], workers=workers)
    assert digest_of_verdicts(load_record(job.config)) == digest_of_verdicts(record)


def test_ray_gives_the_same_digest_when_a_worker_is_killed(trained, record, marks, cluster):
    job = make_record_job()
    jobs = list(job.attacks)
    jobs[1] = Killed(jobs[1], marks)
    assert not run(jobs, engine="ray")
    assert list(marks.iterdir())
    assert not run([job], engine="ray")
    assert digest_of_verdicts(load_record(job.config)) == digest_of_verdicts(record)


def test_ray_tells_failures_and_does_the_others(marks, cluster, monkeypatch):
    monkeypatch.setattr(engines, "ATTEMPTS", 1)
    lost = Killed(Writes(Path("a")), marks, times=99)
    failures = run([lost, Fails(Path("b")), Writes(Path("c"))], engine="ray")
    assert failures.pop(lost.name) == LOST
    assert "nobody foresaw this" in failures.pop("write b")
    assert not failures
    assert Path("c").exists()


def test_submitit_gives_the_same_digest_and_tells_failures(trained, record, marks, slurm):
    job = make_record_job()
    lost = Killed(Writes(Path("a")), marks, times=99)
    # The last of each of two shares; what the lost one's share had done before counts.
    failures = run([*job.attacks, Fails(Path("b")), lost], **slurm)
    assert failures.keys() == {lost.name, "write b"}
    assert "nobody foresaw this" in failures["write b"]
    job.run()
    assert digest_of_verdicts(load_record(job.config)) == digest_of_verdicts(record)


@pytest.mark.parametrize("engine", ["ray", "submitit"])
def test_sweep_names_the_extra_when_the_engine_is_not_installed(engine, marks, capsys, monkeypatch):
    monkeypatch.setattr(engines, "find_spec", lambda _: None)
    assert cli.main(["sweep", "digits", f"--engine={engine}", "--workers=2"]) == 2
    error = capsys.readouterr().err
    assert f"needs the package {engine}" in error
    assert "robustnorm[cluster]" in error


def test_sweep_asks_for_slurm_when_there_is_none(marks, capsys, monkeypatch):
    monkeypatch.setattr(engines.shutil, "which", lambda _: None)
    assert cli.main(["sweep", "digits", "--engine=submitit", "--workers=2"]) == 2
    assert "there is no srun on this machine" in capsys.readouterr().err

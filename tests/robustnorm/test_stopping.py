"""Signals to real processes: what they save, their status, and where the same command goes on."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import yaml

from robustnorm import cli
from robustnorm.stopping import Budget, Either, SignalStop, interrupted, never

SMALL = {
    "data": "digits",
    "train_limit": 128,
    "validation": 100,
    "width": 4,
    "epochs": 3,
    "batch_size": 32,
    "learning_rate": 0.05,
    "epsilon": "3/16",
    "step_size": "3/64",
    "train_steps": 2,
    "validation_steps": 2,
    "test_limit": 200,
    "device": "cpu",
    "checks": "none",
}
TRAIN = ("train", "--config", "small.yaml", "--norm", "saauxbn")


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    (tmp_path / "small.yaml").write_text(yaml.safe_dump(SMALL))
    monkeypatch.chdir(tmp_path)
    return tmp_path


# Signals this process, as a scheduler would, when the given place is reached for the n-th time.
SIGNAL_AT = """
import os, signal, sys, threading
from unittest import mock
from robustnorm import cli
{imports}
count = 0
def arrive(*_):
    global count
    count += 1
    if count in {at}:
        os.kill(os.getpid(), signal.{signal})
{patch}
sys.exit(cli.main(sys.argv[1:]))
"""
AFTER_STEP = """
import torch
step = torch.optim.SGD.step
def signalled(self, *arguments, **options):
    result = step(self, *arguments, **options)
    arrive()
    return result
torch.optim.SGD.step = signalled
"""
IN_VALIDATION = """
from robustnorm.training import advprop
attack_chunk = advprop.attack_chunk
def signalled(*arguments, **options):
    arrive()
    return attack_chunk(*arguments, **options)
advprop.attack_chunk = signalled
"""
IN_EVALUATION = IN_VALIDATION.replace(
    "training import advprop", "evaluation import evaluate"
).replace("advprop", "evaluate")


def start(*words, patch="", name="SIGTERM", at=(1,)):
    code = SIGNAL_AT.format(imports="", at=tuple(at), signal=name, patch=patch)
    return subprocess.Popen(
        [sys.executable, "-c", code, *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )


def end(process):
    output, error = process.communicate(timeout=120)
    return process.returncode, output, error


def last(output):
    folder = Path(output) / "small/saauxbn-seed0"
    manifest = json.loads((folder / "last.json").read_text())
    return manifest, manifest["sha256"]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The hash of all tensors of an uninterrupted run."""
    folder = tmp_path_factory.mktemp("whole")
    (folder / "small.yaml").write_text(yaml.safe_dump(SMALL))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert cli.main(TRAIN) == 0
        return last("checkpoints")[1]


@pytest.mark.parametrize(
    ("patch", "name", "at", "reached"),
    [
        (AFTER_STEP, "SIGTERM", 6, (1, 2)),
        (AFTER_STEP, "SIGUSR1", 4, (0, 4)),  # the last step before a validation
        (IN_VALIDATION, "SIGTERM", 2, (1, 4)),
    ],
)
def test_signalled_run_is_saved_and_the_same_command_ends_as_the_uninterrupted_one(
    whole, patch, name, at, reached
):
    status, _, error = end(start(*TRAIN, patch=patch, name=name, at=(at,)))
    assert status == 143
    assert error.count(f"{name}: saving after this step, then exit 143") == 1
    assert "the same command continues" in error
    manifest, _ = last("checkpoints")
    assert (manifest["epoch"], len(manifest["within_epoch"]["losses"])) == reached
    assert cli.main(TRAIN) == 0
    assert last("checkpoints")[1] == whole


def test_signals_of_one_moment_count_as_one(place):
    patch = AFTER_STEP.replace("    arrive()\n", "    arrive()\n    arrive()\n")
    status, _, error = end(start(*TRAIN, patch=patch, at=(1, 2)))
    assert status == 143
    assert last("checkpoints")[0]["within_epoch"]["losses"]
    assert "again" not in error


def test_second_signal_stops_at_once(place):
    # The step never ends; the second signal comes when the first has been told of.
    patch = AFTER_STEP.replace("    arrive()\n", "    arrive()\n    threading.Event().wait()\n")
    process = start(*TRAIN, patch=patch)
    line = process.stderr.readline()
    while "SIGTERM: saving" not in line:
        assert line, "the process ended"
        line = process.stderr.readline()
    told = time.monotonic()
    while process.poll() is None and time.monotonic() < told + 60:
        process.send_signal(signal.SIGTERM)
        threading.Event().wait(0.1)
    assert process.returncode == 143
    assert "SIGTERM again: stopped at once" in process.communicate()[1]
    assert not list(Path("checkpoints/small/saauxbn-seed0").glob("last*"))


def test_signal_before_anything_is_to_be_saved_ends_the_process(place):
    patch = """
from robustnorm.commands import report
report.report = arrive
"""
    status, _, error = end(start("report", "--config", "small.yaml", patch=patch, name="SIGUSR1"))
    assert status == 143
    assert "SIGUSR1: exit 143, there is nothing to save" in error


@pytest.mark.parametrize("command", ["reproduce", "ablate"])
def test_command_of_many_runs_stops_after_the_step(place, command):
    status, _, error = end(start(command, "--config", "small.yaml", patch=AFTER_STEP, at=(2,)))
    assert status == 143
    assert "stopped in epoch 1 after step 2" in error
    assert len(list(Path("checkpoints/small").glob("*/last.json"))) == 1


def test_campaign_stops_after_the_step_and_writes_no_report(place):
    plan = {"config": "small.yaml", "norms": ["bn"], "seeds": [0], "evaluations": {"all": {}}}
    (place / "campaign.yaml").write_text(yaml.safe_dump({"plans": {"small": plan}}))
    words = ("campaign", "--config", "campaign.yaml", "--budget", "600")
    status, output, error = end(start(*words, patch=AFTER_STEP, at=(2,)))
    assert status == 143, error
    assert "To go on" not in output
    assert not Path("reports").exists()


def test_signalled_evaluation_goes_on_with_the_parts_that_are_left(place, capsys):
    words = ("--config", "small.yaml")
    assert cli.main(("train", *words, "--norm", "bn", "--epochs", "1")) == 0
    status, output, error = end(start("eval", *words, patch=IN_EVALUATION))
    assert status == 143, error
    assert output == ""
    assert "1 of 2 parts are evaluated; the same command continues" in error
    capsys.readouterr()
    assert cli.main(("eval", *words)) == 0
    assert "bn" in capsys.readouterr().out


def test_handlers_are_put_back():
    before = [signal.getsignal(each) for each in (signal.SIGTERM, signal.SIGUSR1)]
    assert cli.main(["train", "--epochs", "0"]) == 2
    assert [signal.getsignal(each) for each in (signal.SIGTERM, signal.SIGUSR1)] == before


def test_handlers_are_left_alone_in_a_thread():
    statuses = []
    thread = threading.Thread(target=lambda: statuses.append(cli.main(["train", "--epochs", "0"])))
    thread.start()
    thread.join()
    assert statuses == [2]


def test_either_stops_for_a_budget_and_tells_of_a_signal():
    signals = SignalStop()
    stop = Either(signals, Budget(10, clock=lambda: 0.0))
    assert (stop(5), stop(20), interrupted(stop)) == (False, True, False)
    signals.received = True
    assert (stop(5), interrupted(stop), interrupted(never)) == (True, True, False)

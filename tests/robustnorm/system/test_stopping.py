"""Signals to real processes: saved state, exit status, and continuing with the same command."""

import itertools
import json
import os
import signal
import threading
import time
from functools import partial
from pathlib import Path

import pytest
import small_runs
import torch
import yaml
from processes import command, end, signal_after_step

from robustnorm import cli
from robustnorm.evaluation import evaluate
from robustnorm.evaluation.checks import measure
from robustnorm.system.stopping import Budget, SignalStop, either, interrupted, never
from robustnorm.training import advprop
from robustnorm.training.losses import AdvProp
from robustnorm.work import report

SMALL = small_runs.SMALL | {"validation": 150, "epochs": 3, "test_limit": 200}
TRAIN = ("train", "--config", "small.yaml", "--norm", "saauxbn")


@pytest.fixture(autouse=True)
def place(tiny, tmp_path, monkeypatch):
    (tmp_path / "small.yaml").write_text(yaml.safe_dump(SMALL))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def signal_at(monkeypatch):
    """Signals this process when a function is called for the n-th time."""

    def arrange(owner, name, at, number=signal.SIGTERM):
        function, calls = getattr(owner, name), itertools.count(1)

        def signalled(*arguments, **options):
            if next(calls) in at:
                os.kill(os.getpid(), number)
            return function(*arguments, **options)

        monkeypatch.setattr(owner, name, signalled)

    return arrange


def last(output):
    folder = Path(output) / "small/saauxbn-seed0"
    manifest = json.loads((folder / "last.json").read_text())
    return manifest, manifest["sha256"]


@pytest.fixture(scope="module")
def whole(tiny, tmp_path_factory):
    """The hash of all tensors of an uninterrupted run."""
    folder = tmp_path_factory.mktemp("whole")
    (folder / "small.yaml").write_text(yaml.safe_dump(SMALL))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert cli.main(TRAIN) == 0
        return last("checkpoints")[1]


def reached():
    manifest, _ = last("checkpoints")
    return manifest["epoch"], len(manifest["within_epoch"]["losses"])


def test_signalled_run_ends_as_the_uninterrupted_one(whole):
    status, error = end(command(*TRAIN, before=partial(signal_after_step, 6)))
    assert status == 143
    assert error.count("SIGTERM: saving after this step, then exit 143") == 1
    assert "the same command continues" in error
    assert reached() == (1, 2)
    assert cli.main(TRAIN) == 0
    assert last("checkpoints")[1] == whole


@pytest.mark.parametrize(
    ("owner", "name", "at", "position"),
    [
        (AdvProp, "adversarial_images", 4, (0, 4)),  # the last step before a validation
        (advprop, "attack_chunk", 3, (1, 4)),  # the first of two chunks of a validation
    ],
)
def test_signalled_run_repeats_the_validation_alone(
    whole, signal_at, owner, name, at, position, capfd
):
    signal_at(owner, name, (at,), signal.SIGUSR1)
    assert cli.main(TRAIN) == 143
    assert "SIGUSR1: saving" in capfd.readouterr().err
    assert reached() == position
    steps = []
    with pytest.MonkeyPatch.context() as patch:
        step = torch.optim.SGD.step
        patch.setattr(torch.optim.SGD, "step", lambda *given: steps.append(1) or step(*given))
        assert cli.main(TRAIN) == 0
    assert len(steps) == 12 - 4 * position[0] - position[1]
    assert last("checkpoints")[1] == whole


def test_signals_of_one_moment_count_as_one(signal_at, capfd):
    signal_at(AdvProp, "adversarial_images", (1,))
    signal_at(AdvProp, "backward", (1,))
    assert cli.main(TRAIN) == 143
    assert reached() == (0, 1)
    assert "again" not in capfd.readouterr().err


def test_second_signal_stops_at_once(place):
    # The step never ends; the second signal comes when the first has been told of.
    process = command(*TRAIN, before=partial(signal_after_step, 1, forever=True))
    line = process.stderr.readline()
    while "SIGTERM: saving" not in line:
        assert line, "the process ended"
        line = process.stderr.readline()
    told = time.monotonic()
    while process.is_alive() and time.monotonic() < told + 60:
        os.kill(process.pid, signal.SIGTERM)
        threading.Event().wait(0.1)
    status, error = end(process)
    assert status == 143
    assert "SIGTERM again: stopped at once" in error
    assert not list(Path("checkpoints/small/saauxbn-seed0").glob("last*"))


def test_signal_before_anything_is_to_be_saved_ends_the_process(signal_at, capfd):
    signal_at(report, "report", (1,), signal.SIGUSR1)
    with pytest.raises(SystemExit) as stop:
        cli.main(("report", "--config", "small.yaml"))
    assert stop.value.code == 143
    assert "SIGUSR1: exit 143, there is nothing to save" in capfd.readouterr().err


@pytest.mark.parametrize("command", ["reproduce", "ablate"])
def test_command_of_many_runs_stops_after_the_step(signal_at, capfd, command):
    signal_at(AdvProp, "adversarial_images", (2,))
    assert cli.main((command, "--config", "small.yaml")) == 143
    assert "stopped in epoch 1 after step 2" in capfd.readouterr().err
    assert len(list(Path("checkpoints/small").glob("*/last.json"))) == 1


def test_campaign_stops_after_the_step_and_writes_no_report(signal_at, place, capfd):
    plan = {"config": "small.yaml", "norms": ["bn"], "seeds": [0], "evaluations": {"all": {}}}
    (place / "campaign.yaml").write_text(yaml.safe_dump({"plans": {"small": plan}}))
    signal_at(AdvProp, "adversarial_images", (2,))
    assert cli.main(("campaign", "--config", "campaign.yaml", "--budget", "600")) == 143
    assert "To continue" not in capfd.readouterr().out
    assert not Path("reports").exists()


def test_signalled_evaluation_goes_on_with_the_parts_that_are_left(signal_at, capfd):
    words = ("--config", "small.yaml")
    assert cli.main(("train", *words, "--norm", "bn", "--epochs", "1")) == 0
    signal_at(evaluate, "attack_chunk", (1,))
    assert cli.main(("eval", *words)) == 143
    output, error = capfd.readouterr()
    assert output == ""
    assert "1 of 2 parts are evaluated; the same command continues" in error
    assert cli.main(("eval", *words)) == 0
    assert "bn" in capfd.readouterr().out


def test_signalled_checks_stop_after_the_attack(signal_at, capfd):
    words = ("--config", "small.yaml")
    assert cli.main(("train", *words, "--norm", "bn", "--epochs", "1")) == 0
    signal_at(measure, "attack_chunk", (2,))
    assert cli.main(("eval", *words, "--checks", "quick")) == 143
    assert "stopped during the checks of an evaluation" in capfd.readouterr().err
    assert list(Path("reports/small/records").glob("*.journal"))


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
    stop = either(signals, Budget(10, clock=lambda: 0.0))
    assert (stop(5), stop(20), interrupted(stop)) == (False, True, False)
    signals.received = True
    assert (stop(5), interrupted(stop), interrupted(never)) == (True, True, False)


def test_overdrawn_budget_does_not_interrupt_what_is_under_way():
    seconds = iter([0.0, 99.0, 99.0])
    budget = Budget(10, clock=lambda: next(seconds))
    assert (budget(0.0), interrupted(budget)) == (True, False)

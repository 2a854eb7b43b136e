"""A campaign in slices, on several machines, killed, compared with an uninterrupted one."""

import itertools
import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import yaml
from manifests import rewrite_manifest
from processes import command, kill

from robustnorm import cli
from robustnorm.records.record import Record
from robustnorm.runs.checkpoint import Checkpoint
from robustnorm.settings.campaign import campaign_plans
from robustnorm.work import campaign as slices
from robustnorm.work import plan as module
from robustnorm.work import train as training
from robustnorm.work.jobs import digest

# Two steps and one epoch a run; evaluations of two parts.
TRAINING = {
    "network": "tiny",
    "train_limit": 64,
    "validation": 20,
    "width": 4,
    "epochs": 1,
    "batch_size": 32,
    "epsilon": "3/16",
    "step_size": "3/64",
    "train_steps": 1,
    "validation_steps": 1,
}
QUICK = {"checks": "none", "worst": False}
PLAN = {
    "config": "digits",
    "settings": TRAINING,
    "norms": ["bn", "auxbn"],
    "control": False,
    "evaluations": {
        "best": {"checkpoint": "best", "test_limit": 101, **QUICK},
        "last": {"checkpoint": "last", "test_limit": 50, **QUICK},
    },
}
RUNS = ("bn-seed0", "auxbn-seed0")


def write_campaign(**plan):
    content = {"plans": {"small": PLAN | plan}, "device": "cpu"}
    Path("campaign.yaml").write_text(yaml.safe_dump(content))


def campaign(*words, status=0):
    assert cli.main(["campaign", "--config", "campaign.yaml", *words]) == status


class StopsAt:
    """Returns True at the given call, counted from 1, in place of a clock."""

    def __init__(self, question):
        self._questions = itertools.count(1)
        self._question = question

    def __call__(self, seconds):
        return seconds >= 0 and next(self._questions) >= self._question


@pytest.fixture(autouse=True)
def place(tiny, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_campaign()
    return tmp_path


@pytest.fixture(scope="module")
def whole(tiny, blank_figures, tmp_path_factory):
    """The folder of an uninterrupted campaign."""
    folder = tmp_path_factory.mktemp("whole")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        write_campaign()
        campaign()
    return folder


def assert_same(folder, whole):
    for run in RUNS:
        for tag in ("best", "last"):
            one, other = (
                json.loads((place / f"checkpoints/small/{run}/{tag}.json").read_text())
                for place in (folder, whole)
            )
            assert one["sha256"] == other["sha256"]
            record, expected = (
                Record.load(place / f"reports/small/{tag}/records/{run}-{tag}.json")
                for place in (folder, whole)
            )
            for verdict, its in zip(record.verdicts, expected.verdicts, strict=True):
                assert np.array_equal(verdict.correct, its.correct)
    for tag in ("best", "last"):
        mine, its = (
            (place / f"reports/small/{tag}/tables.md").read_text() for place in (folder, whole)
        )
        assert mine == its
        page = (folder / f"reports/small/{tag}/report.html").read_text()
        assert "AuxBN (adv)" in page
        assert list((folder / f"reports/small/{tag}/figures").glob("*.svg"))
    assert not list(folder.rglob("*.journal"))


def test_campaign_in_slices_on_machine_after_machine_ends_as_the_uninterrupted_one(
    place, whole, blank_figures, monkeypatch, capsys
):
    here = place
    for number, question in enumerate(itertools.cycle((3, 4, 7))):
        monkeypatch.setattr(slices, "Budget", lambda _, question=question: StopsAt(question))
        campaign("--budget", "60")
        if "Everything is done." in capsys.readouterr().out:
            break
        there = place / f"machine-{number}"
        there.mkdir()
        for folder in ("checkpoints", "reports"):
            if Path(folder).exists():
                shutil.copytree(folder, there / folder)
        here = there
        monkeypatch.chdir(here)
        write_campaign()
        assert number < 20
    assert number >= 4
    assert_same(here, whole)


def test_killed_campaign_goes_on_to_the_same_end(place, whole, blank_figures):
    process = command("campaign", "--config", "campaign.yaml")
    while not list(place.glob("checkpoints/small/bn-seed0/*")) and process.is_alive():
        time.sleep(0.001)
    kill(process)
    assert not (place / "reports/small/last/tables.md").exists()
    campaign()
    assert_same(place, whole)


def test_finished_campaign_does_nothing_and_says_so(whole, monkeypatch, capsys):
    monkeypatch.chdir(whole)
    monkeypatch.setattr(training, "_train", None)
    monkeypatch.setattr(module, "evaluate_run", None)
    campaign()
    shown = capsys.readouterr().out
    assert "Everything is done." in shown
    assert shown.splitlines()[2].split() == ["small", "2.0", "of", "2", "4", "of", "4", "done"]


def test_reading_is_written_beside_the_tables(whole):
    text = (whole / "reports/small/README.md").read_text()
    assert "Data: scikit-learn digits, 64 training images, n = 101 test images. 2 runs" in text
    assert "[best](best/tables.md), [last](last/tables.md)" in text


def test_readme_shows_the_finished_plan(whole, monkeypatch):
    monkeypatch.chdir(whole)
    Path("README.md").write_text("<!-- reports/cifar10-cpu -->\nold\n<!-- end -->\n")
    campaign("--readme", "README.md")
    shown = Path("README.md").read_text()
    assert shown.startswith("<!-- reports/small/best -->\nData: scikit-learn digits")
    tables = Path("reports/small/best/tables.md").read_text().splitlines()
    rows = [line for line in shown.splitlines() if line.startswith("|")]
    assert len(rows) > 6
    assert set(rows) <= set(tables)


def test_readme_is_left_as_it_is_while_no_plan_is_finished(place, monkeypatch, capsys):
    monkeypatch.setattr(slices, "Budget", lambda _: StopsAt(1))
    Path("README.md").write_text("<!-- reports/old -->\nold\n<!-- end -->\n")
    campaign("--readme", "README.md", "--budget", "60")
    assert "no plan has evaluated all its norms yet" in capsys.readouterr().err
    assert "old" in Path("README.md").read_text()


def test_a_seed_is_trained_and_evaluated_before_the_next(monkeypatch, capsys):
    calls = []
    monkeypatch.setattr(
        module, "train_run", lambda run, should_stop: calls.append(("train", run.run))
    )
    monkeypatch.setattr(module, "is_trained", lambda run, _: ("train", run.run) in calls)
    monkeypatch.setattr(module, "_open", lambda run, _: run.folder)
    monkeypatch.setattr(module, "find_record", lambda *_: None)
    monkeypatch.setattr(
        module,
        "evaluate_run",
        lambda folder, evaluation, *_: calls.append((evaluation.checkpoint, folder.name)),
    )
    write_campaign(seeds=[3, 4], control=True, first_seed_only=["last"])
    campaign()
    assert calls == [
        (work, f"{run}-seed{seed}")
        for seed in (3, 4)
        for work in ("train", "best", *["last"] * (seed == 3))
        for run in ("bn", "auxbn", "bn-plain")
    ]
    assert "0 of 9" in capsys.readouterr().out  # three runs of two seeds, and three of one


@pytest.mark.parametrize("changed", [False, True])
def test_checkpoints_of_the_same_network_are_evaluated_once(
    changed, place, blank_figures, monkeypatch, caplog
):
    """One epoch: it is the best and the last, unless another network is saved as one of them."""
    evaluate, evaluated = module.evaluate_run, []

    def counted(run, *arguments):
        evaluated.append((run.folder.name, run.tag))
        return evaluate(run, *arguments)

    monkeypatch.setattr(module, "evaluate_run", counted)
    if changed:
        monkeypatch.setattr(Checkpoint, "has_weights_of", lambda *_: False)
    both = {tag: {"checkpoint": tag, "test_limit": 20, **QUICK} for tag in ("best", "last")}
    write_campaign(evaluations=both)
    campaign()
    wanted = [(run, "best") for run in RUNS] + [(run, "last") for run in RUNS] * changed
    assert evaluated == wanted
    for run in RUNS:
        best, last = (
            Record.load(Path(f"reports/small/{tag}/records/{run}-{tag}.json"))
            for tag in ("best", "last")
        )
        manifest = json.loads(Path(f"checkpoints/small/{run}/last.json").read_text())
        assert last.checkpoint == best.checkpoint | {"tag": "last", "sha256": manifest["sha256"]}
        assert digest(last) == digest(best)
    assert ("'best' and 'last' are the same network" in caplog.text) is not changed
    campaign()  # finds both
    assert evaluated == wanted


def test_run_of_other_settings_is_refused(whole, monkeypatch, capsys):
    monkeypatch.chdir(whole)
    campaign_file = Path("campaign.yaml").read_text()
    write_campaign(settings=TRAINING | {"weight_decay": 0.01})
    campaign(status=2)
    Path("campaign.yaml").write_text(campaign_file)
    error = capsys.readouterr().err.splitlines()[-1]
    assert "holds a run with other settings (weight_decay: 0.0005 there, 0.01 here)" in error


def test_time_left_follows_from_what_was_measured_on_this_device(place, monkeypatch, capsys):
    monkeypatch.setattr(slices, "Budget", lambda _: StopsAt(4))  # bn is trained, auxbn begun
    write_campaign(settings=TRAINING | {"epochs": 4}, norms=["bn"])
    campaign("--budget", "60")
    path = place / "checkpoints/small/bn-seed0/last.json"
    content = json.loads(path.read_text())
    assert (content["epoch"], len(content["within_epoch"]["losses"])) == (1, 1)
    entry = content["history"][0] | {"seconds": 1000.0, "validation_seconds": 200.0}
    elsewhere = entry | {"device": "another", "seconds": 1e6}
    capsys.readouterr()
    monkeypatch.setattr(slices, "Budget", lambda _: StopsAt(1))
    for history, left in (
        ([entry], "about 50:00 and 2 runs or evaluations not measured yet"),  # 2.5 of 1,200 s
        ([elsewhere], "not measured yet"),
    ):
        rewrite_manifest(path, history=history)
        campaign("--budget", "60")
        row = capsys.readouterr().out.splitlines()[2]
        assert row.split(maxsplit=7)[1:4] == ["1.5", "of", "4"]
        assert row.endswith(left)


@pytest.mark.parametrize(
    ("plan", "message"),
    [
        ({"settings": {"epochz": 3}}, "did you mean 'epochs'?"),
        ({"settings": {"epochs": "many"}}, "epochs must be a whole number, got many"),
        ({"settings": {"seed": 3}}, "settings of plan small cannot have seed; norms, seeds and"),
        ({"norms": ["saauxbm"]}, "unknown norm 'saauxbm'; did you mean 'saauxbn'?"),
        ({"norms": []}, "plan small needs norms, got none"),
        ({"config": "digit"}, "unknown config 'digit'; did you mean 'digits'?"),
        ({"evaluations": {"x": {"epochs": 3}}}, "evaluations of plan small cannot have epochs; al"),
        ({"first_seed_only": ["bets"]}, "small: unknown evaluation 'bets'; did you mean 'best'?"),
        ({"evaluations": {"../x": {}}}, "got '../x': it has a slash"),
        (
            {"evaluations": {"x": {"checkpoint": "epoch3"}}},
            "needs the weights of epoch3, which no run keeps; add 3 to keep_epochs",
        ),
        ({"plans": {}}, "plans must name at least one plan"),
        ({"budget": 0}, "budget must be above 0 seconds, got 0"),
    ],
)
def test_campaign_that_cannot_be_carried_out_is_refused(capsys, plan, message):
    if {"plans", "budget"} & plan.keys():
        content = {"plans": {"small": PLAN}} | plan
        Path("campaign.yaml").write_text(yaml.safe_dump(content))
    else:
        write_campaign(**plan)
    campaign(status=2)
    (error,) = capsys.readouterr().err.splitlines()
    assert message in error


def test_campaign_is_refused_before_torch_is_imported():
    write_campaign(norms=["saauxbm"])
    code = (
        "import sys\nfrom robustnorm.cli import main\n"
        "assert main(sys.argv[1:]) == 2\nsys.exit('torch' in sys.modules)\n"
    )
    words = ["campaign", "--config", "campaign.yaml"]
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, check=False)
    assert done.returncode == 0


@pytest.mark.parametrize("name", ["campaign", "campaign-cpu", "campaign-rehearsal"])
def test_packaged_campaign_is_read_by_name(tmp_path, name):
    words = ["campaign", "--config", name] + ["--data", str(tmp_path)] * (
        name != "campaign-rehearsal"
    )
    _, settings, _ = cli.parse(words)
    plans = campaign_plans(settings)
    for plan in plans:
        assert [run.run for run in plan.of_seed(0)] == [
            "bn-seed0",
            "modenorm-seed0",
            "auxbn-seed0",
            "saauxbn-seed0",
            "bn-plain-seed0",
        ]
        assert len({run.name for run in plan.runs} | {plan.name}) == 1
    if name == "campaign":
        fast, paper, released = plans
        assert fast.seeds == (0, 1, 2)
        described = [
            (run.epochs, run.train_steps, run.schedule, run.precision, run.network)
            for run in (fast.runs[0], paper.runs[0], released.runs[0])
        ]
        assert described == [
            (30, 10, "one-cycle", "bf16", "resnet18"),
            (200, 10, "milestones", "fp32", "resnet18"),
            (200, 7, "milestones", "fp32", "preact_resnet18"),
        ]
        assert {e.checkpoint for e in paper.evaluations.values()} == {"best", "epoch190", "last"}

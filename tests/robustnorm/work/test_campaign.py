"""A campaign in slices, on several machines, killed, compared with an uninterrupted one."""

import itertools
import json
import shutil
import time
from pathlib import Path

import numpy as np
import pytest
from manifests import rewrite_manifest
from processes import command, kill
from small_campaign import QUICK, campaign, write_campaign
from small_runs import TRAINING

from robustnorm.records.digests import digest_of_verdicts
from robustnorm.records.record import Record
from robustnorm.runs.checkpoint import Checkpoint
from robustnorm.work import campaign as slices
from robustnorm.work import evaluate_run as evaluation
from robustnorm.work import plan as module
from robustnorm.work import train as training

RUNS = ("bn-seed0", "auxbn-seed0")


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
    monkeypatch.setattr(evaluation, "evaluate", None)
    before = {path: path.read_bytes() for path in whole.rglob("*") if path.is_file()}
    campaign()
    assert before == {path: path.read_bytes() for path in whole.rglob("*") if path.is_file()}
    shown = capsys.readouterr().out
    assert "Everything is done." in shown
    assert shown.splitlines()[2].split() == ["small", "2.0", "of", "2", "4", "of", "4", "done"]


def test_reading_is_written_beside_the_tables(whole):
    text = (whole / "reports/small/README.md").read_text()
    assert "Data: scikit-learn digits, 64 training images, n = 101 test images. 2 runs" in text
    assert "[best](best/tables.md), [last](last/tables.md)" in text


def test_readme_shows_the_finished_plan(whole, monkeypatch):
    monkeypatch.chdir(whole)
    Path("README.md").write_text("<!-- reports/old -->\nold\n<!-- end -->\n")
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


def test_page_follows_the_plan_not_the_folder(blank_figures, capsys):
    """More seeds, then other images for the first seed only: older records lie beside."""
    one = {"best": {"test_limit": 20, **QUICK}}
    page = Path("reports/small/best/report.html")
    write_campaign(norms=["bn"], evaluations=one)
    campaign()
    assert "<dd>20 of " in page.read_text()
    write_campaign(norms=["bn"], evaluations=one, seeds=[0, 1])
    campaign()
    assert "BN (2 seeds)" in " ".join(page.read_text().split())
    one["best"]["test_limit"] = 12
    write_campaign(norms=["bn"], evaluations=one, seeds=[0, 1], only_seed={"best": 0})
    campaign()
    assert len(list(page.parent.glob("records/*.json"))) == 2
    text = " ".join(page.read_text().split())
    assert "<dd>12 of " in text
    assert "2 seeds" not in text
    assert "robustnorm campaign --config campaign.yaml" in text
    assert "Everything is done." in capsys.readouterr().out


def test_budget_that_is_spent_leaves_the_checks_for_the_next_slice(blank_figures, monkeypatch):
    quick = {"best": {"test_limit": 20, "worst": False, "checks": "quick"}}
    write_campaign(norms=["bn"], evaluations=quick)
    record = Path("reports/small/best/records/bn-seed0-best.json")

    def spent(seconds):
        return seconds >= 0 and any(record.parent.glob("*.journal"))

    monkeypatch.setattr(slices, "Budget", lambda _: spent)
    campaign("--budget", "60")
    assert any(record.parent.glob("*.journal"))
    assert not record.exists()
    campaign()
    assert not any(record.parent.glob("*.journal"))
    assert Record.load(record).checks


def test_a_seed_is_trained_and_evaluated_before_the_next(monkeypatch, capsys):
    calls = []
    monkeypatch.setattr(
        module, "train_run", lambda run, should_stop: calls.append(("train", run.run))
    )
    monkeypatch.setattr(module, "is_trained", lambda run, _: ("train", run.run) in calls)
    monkeypatch.setattr(module, "_open", lambda run, _: run.folder)
    monkeypatch.setattr(module, "find_record", lambda *_: None)
    monkeypatch.setattr(module, "recall", lambda *_: None)
    monkeypatch.setattr(
        module,
        "evaluate_run",
        lambda folder, evaluation, *_: calls.append((evaluation.checkpoint, folder.name)),
    )
    write_campaign(seeds=[3, 4], control=True, only_seed={"last": 4})
    campaign()
    assert calls == [
        (work, f"{run}-seed{seed}")
        for seed in (3, 4)
        for work in ("train", "best", *["last"] * (seed == 4))
        for run in ("bn", "auxbn", "bn-plain")
    ]
    assert "0 of 9" in capsys.readouterr().out  # three runs of two seeds, and three of one


@pytest.mark.parametrize("changed", [False, True])
def test_checkpoints_of_the_same_network_are_evaluated_once(
    changed, place, blank_figures, monkeypatch, caplog
):
    """One epoch: it is the best and the last, unless another network is saved as one of them."""
    evaluate, evaluated = evaluation.evaluate, []

    def counted(*arguments, progress, **options):
        evaluated.append(progress.removeprefix("evaluating "))
        return evaluate(*arguments, **options)

    monkeypatch.setattr(evaluation, "evaluate", counted)
    if changed:
        monkeypatch.setattr(Checkpoint, "has_weights_of", lambda *_: False)
    both = {tag: {"checkpoint": tag, "test_limit": 20, **QUICK} for tag in ("best", "last")}
    write_campaign(evaluations=both)
    campaign()
    wanted = [*RUNS] * (1 + changed)
    assert evaluated == wanted
    for run in RUNS:
        best, last = (
            Record.load(Path(f"reports/small/{tag}/records/{run}-{tag}.json"))
            for tag in ("best", "last")
        )
        manifest = json.loads(Path(f"checkpoints/small/{run}/last.json").read_text())
        assert last.checkpoint == best.checkpoint | {"tag": "last", "sha256": manifest["sha256"]}
        assert digest_of_verdicts(last) == digest_of_verdicts(best)
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

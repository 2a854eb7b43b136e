"""Campaigns that are refused before any work, and those that come with the package."""

import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from small_campaign import PLAN, campaign, write_campaign

from robustnorm import cli
from robustnorm.settings.campaign import campaign_plans
from robustnorm.work import campaign as slices


@pytest.fixture(autouse=True)
def place(tiny, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_campaign()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"# Title\n", "README.md has no block of results; add the lines"),
        (b"caf\xe9", "README.md cannot be read as UTF-8 text"),
        (None, "README.md cannot be read as UTF-8 text"),
    ],
)
def test_readme_without_a_block_is_refused_before_any_work(content, message, monkeypatch, capsys):
    monkeypatch.setattr(slices, "carry_out", None)
    if content is not None:
        Path("README.md").write_bytes(content)
    campaign("--readme", "README.md", status=2)
    assert message in capsys.readouterr().err.splitlines()[-1]


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
        ({"only_seed": {"bets": 0}}, "small: unknown evaluation 'bets'; did you mean 'best'?"),
        ({"only_seed": {"best": 7}}, "small gives best seed 7; choose one of the plan's seeds, 0"),
        ({"evaluations": {"../x": {}}}, "got '../x': it has a slash"),
        (
            {"evaluations": {"x": {"checkpoint": "epoch3"}}},
            "evaluation x of plan small needs epoch 3, but runs have 1",
        ),
        ({"evaluations": {"x": {"checkpoint": "epoch0"}}}, "needs epoch 0, but runs have 1"),
        (
            {"evaluations": {"x": {"checkpoint": "epoch1"}}},
            "needs the weights of epoch 1, which no run keeps; add 1 to keep_epochs",
        ),
        ({"seeds": [0, -1]}, "seed must be at least 0 and below 2^64, got -1"),
        ({"seeds": [3, 4, 3]}, "seeds of plan small has 3 more than once"),
        ({"norms": ["bn", "bn"]}, "norms of plan small has bn more than once"),
        ({"evaluations": {"readme.md": {}}}, "an evaluation cannot be called readme.md"),
        ({"evaluations": {"x": {"transfer": True}}}, "cannot have transfer; allowed: attacks,"),
        ({"evaluations": {"x": {"test_curve": 5}}}, "cannot have test_curve; allowed: attacks,"),
        ({"settings": {"transfer": True}}, "cannot have transfer; use robustnorm eval --tr"),
        ({"settings": {"output": "x"}}, "cannot have output; norms, seeds and control are"),
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


def test_plans_take_folders_and_device_from_the_campaign():
    Path("own.yaml").write_text("device: cuda\noutput: a\nreports: b\ndata_root: c\ndata: digits\n")
    write_campaign(config="own.yaml")
    _, settings, _ = cli.parse(["campaign", "--config", "campaign.yaml", "--reports", "given"])
    [plan] = campaign_plans(settings)
    for config in (*plan.runs, *plan.evaluations.values()):
        places = [config.data_root, config.device, config.output, config.reports]
        assert places == ["data", "cpu", "checkpoints", "given"]
        assert config.data == "digits"


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

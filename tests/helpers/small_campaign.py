"""A campaign that takes seconds."""

from pathlib import Path

import yaml

from robustnorm import cli

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


def write_campaign(**plan):
    content = {"plans": {"small": PLAN | plan}, "device": "cpu"}
    Path("campaign.yaml").write_text(yaml.safe_dump(content))


def campaign(*words, status=0):
    assert cli.main(["campaign", "--config", "campaign.yaml", *words]) == status

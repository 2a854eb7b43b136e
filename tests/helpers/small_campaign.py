"""A campaign that takes seconds."""

from pathlib import Path

import yaml
from small_runs import TRAINING

from robustnorm import cli

# Evaluations of two parts.
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

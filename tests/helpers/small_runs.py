"""Commands on a small network and few digits, with the settings of small.yaml."""

from robustnorm import cli

# The shortest training: two steps an epoch.
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
SMALL = {
    "data": "digits",
    "network": "tiny",
    "train_limit": 128,
    "validation": 100,
    "width": 4,
    "epochs": 2,
    "batch_size": 32,
    "learning_rate": 0.05,
    "epsilon": "3/16",
    "step_size": "3/64",
    "train_steps": 2,
    "validation_steps": 2,
    "test_limit": 60,
    "device": "cpu",
    "checks": "none",
    "worst": False,
}


def run(*words, status=0):
    assert cli.main(words) == status


def refused(capsys, *words, status=2):
    run(*words, status=status)
    error = capsys.readouterr().err
    assert error.splitlines()[-1].startswith("robustnorm: ")
    return error

"""Trains the paper's norms and a control, then evaluates them."""

from __future__ import annotations

from dataclasses import replace

from robustnorm.campaign import PAPER_NORMS
from robustnorm.commands.evaluate import evaluate_runs
from robustnorm.commands.train import train_run
from robustnorm.config import Config


def reproduce(config: Config, config_path: str | None = None) -> str:
    """Trains each norm and a plainly trained control, then evaluates them; returns the tables.

    Arguments as ``evaluate_runs``.
    """
    for norm in PAPER_NORMS:
        train_run(replace(config, norm=norm))
    train_run(replace(config, norm="bn", adversarial=False))
    return evaluate_runs(config, config_path)

"""Trains the paper's norms and a control, then evaluates them."""

from __future__ import annotations

from dataclasses import replace

from robustnorm.campaign import PAPER_NORMS
from robustnorm.commands.evaluate import evaluate_runs
from robustnorm.commands.train import train_run
from robustnorm.config import Config
from robustnorm.stopping import ShouldStop, never


def reproduce(
    config: Config, config_path: str | None = None, *, should_stop: ShouldStop = never
) -> str:
    """Trains each norm and a plainly trained control, then evaluates them; returns the tables.

    Arguments as ``evaluate_runs``.
    """
    for norm in PAPER_NORMS:
        train_run(replace(config, norm=norm), should_stop=should_stop)
    train_run(replace(config, norm="bn", adversarial=False), should_stop=should_stop)
    return evaluate_runs(config, config_path, should_stop=should_stop)

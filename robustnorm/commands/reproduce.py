"""Trains the paper's norms and a control, then evaluates them."""

from __future__ import annotations

from dataclasses import replace

from robustnorm.settings.campaign import PAPER_NORMS
from robustnorm.settings.config import Config
from robustnorm.system.stopping import ShouldStop, never
from robustnorm.work.evaluate import evaluate_runs
from robustnorm.work.train import train_run


def reproduce(
    config: Config, config_path: str | None = None, *, should_stop: ShouldStop = never
) -> str:
    """Trains each norm and a control on clean images, then evaluates them; returns the tables.

    See ``evaluate_runs`` for the arguments.
    """
    for norm in PAPER_NORMS:
        train_run(replace(config, norm=norm), should_stop=should_stop)
    train_run(replace(config, norm="bn", adversarial=False), should_stop=should_stop)
    return evaluate_runs(config, config_path, should_stop=should_stop)

"""Trains the paper's norms and a control, then evaluates them."""

from __future__ import annotations

from robustnorm.settings.config import Config
from robustnorm.settings.plan import training_plan
from robustnorm.system.stopping import ShouldStop, never
from robustnorm.work.evaluate import evaluate_runs
from robustnorm.work.plan import carry_out


def reproduce(
    config: Config, config_path: str | None = None, *, should_stop: ShouldStop = never
) -> str:
    """Trains each norm and a control on clean images, then evaluates them; returns the tables.

    See ``evaluate_runs`` for the arguments.
    """
    carry_out(training_plan(config), should_stop=should_stop)
    return evaluate_runs(config, config_path, should_stop=should_stop)

"""Compares the norms on scikit-learn's digits, on all CPU cores."""

from __future__ import annotations

from dataclasses import replace

import torch

from robustnorm.commands.reproduce import reproduce
from robustnorm.settings.config import Config
from robustnorm.settings.plan import training_plan
from robustnorm.settings.sweep import SweepSettings
from robustnorm.system.device import resolve_device
from robustnorm.system.stopping import ShouldStop, never
from robustnorm.work.sweep import do_plans


def demo(config: Config, config_path: str | None = None, *, should_stop: ShouldStop = never) -> str:
    """Trains and evaluates small networks, one per CPU core at a time.

    Args:
        config: The settings.
        config_path: Path of the config file, for the command that trains a missing norm.
        should_stop: Called between jobs.

    Returns:
        The tables of ``reproduce``, which also reports why a job failed.

    Raises:
        Stopped: When ``should_stop`` asks for it; the next call continues.
    """
    plan = replace(training_plan(config), evaluations={"": config})
    workers = min(torch.get_num_threads(), len(plan.runs))
    if resolve_device(config.device).type == "cpu" and workers > 1:
        engine = SweepSettings(configs=[plan.name], device="cpu", workers=workers, threads=1)
        do_plans([plan], engine, should_stop)
    return reproduce(config, config_path, should_stop=should_stop)

"""Trains and evaluates the grid of statistics and affines."""

from __future__ import annotations

from robustnorm.reporting.ablation import GRID, ablation_table
from robustnorm.reporting.render import save_tables, to_text
from robustnorm.settings.config import Config
from robustnorm.settings.plan import training_plan
from robustnorm.system.stopping import ShouldStop, never
from robustnorm.work.evaluate import (
    evaluate_records,
    report_tables,
    require_reliable,
    train_command,
)
from robustnorm.work.plan import carry_out


def ablate(
    config: Config, config_path: str | None = None, *, should_stop: ShouldStop = never
) -> str:
    """Trains each norm of the grid, then evaluates them; returns the tables and the grid.

    Skips what has already been trained or evaluated, so the same command continues an interrupted
    ablation. See ``evaluate_runs`` for the arguments.
    """
    plan = training_plan(config, tuple(GRID.values()), control=False)
    carry_out(plan, should_stop=should_stop)
    command = train_command(config_path)
    records = evaluate_records(config, command, should_stop=should_stop)
    text = report_tables(records, config, command)
    table = ablation_table(records)
    save_tables([table], config.reports_folder, "ablation")
    return require_reliable(text + "\n" + to_text([table]), records, config)

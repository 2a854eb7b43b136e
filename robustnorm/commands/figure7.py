"""Trains the networks of Figures 7 and 8 and writes figures, tables and page."""

from __future__ import annotations

import itertools
import shlex
from pathlib import Path

from robustnorm.applications.style.data import load_sources, validation_pairs
from robustnorm.applications.style.encoders import get_encoder
from robustnorm.applications.style.examples import paint
from robustnorm.applications.style.results import check_others
from robustnorm.applications.style.runs import describe_run, train_style
from robustnorm.reporting.render import to_text
from robustnorm.settings.style import StyleSettings
from robustnorm.system.device import resolve_device
from robustnorm.system.extras import extra
from robustnorm.system.stopping import ShouldStop, never


def figure7(
    settings: StyleSettings, config_path: str | None = None, *, should_stop: ShouldStop = never
) -> str:
    """Trains each row with each seed, or continues; writes records, tables, figures and page.

    Args:
        settings: Networks and data.
        config_path: Path of the config file, for the commands on the page.
        should_stop: Called between steps.

    Returns:
        The tables as text.

    Raises:
        UsageError, DataError, RefusedFileError: When settings, pictures or a checkpoint are
            unusable.
        ImportError: When the packages of the extras "style" and "report" are not installed.
        Stopped: When a signal arrives; the state is saved, and the next call continues.
    """
    with extra("report", "the figures need matplotlib and jinja2"):
        from robustnorm.applications.style.report import write_report
    device = resolve_device(settings.device)
    sources = load_sources(settings)
    described = get_encoder(settings, sources, device, should_stop)
    pairs = [
        (content.to(device), style.to(device))
        for content, style in validation_pairs(sources, settings)
    ]
    trained = list(itertools.product(settings.rows, settings.seeds))
    about = describe_run(*trained[0], settings, sources, described)
    check_others(Path(settings.reports) / str(settings.name) / "records", about, trained)
    for seed in settings.seeds:
        for row in settings.rows:
            train_style(row, seed, settings, sources, described, pairs, device, should_stop)
    seed = settings.seeds[0]
    made = write_report(
        Path(settings.reports) / str(settings.name),
        paint(settings, sources, seed),
        seed=seed,
        command="robustnorm figure7"
        + (f" --config {shlex.quote(config_path)}" if config_path else ""),
    )
    return to_text(made)

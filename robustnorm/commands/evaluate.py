"""Evaluates trained runs, or weights that other code trained, which it imports first."""

from __future__ import annotations

import logging
import re
from dataclasses import fields, replace
from pathlib import Path

from robustnorm.commands.import_weights import asked, digest_of, import_weights
from robustnorm.data.dataset import Dataset
from robustnorm.records.record import fingerprint
from robustnorm.runs import Run
from robustnorm.runs.described import load_data
from robustnorm.settings.base import names
from robustnorm.settings.config import Config
from robustnorm.settings.groups import Evaluation, Files
from robustnorm.settings.import_weights import EvalSettings, ImportSettings
from robustnorm.system.errors import UsageError
from robustnorm.system.stopping import ShouldStop, never
from robustnorm.work.evaluate import evaluate_runs

log = logging.getLogger("robustnorm")


def evaluate(
    settings: EvalSettings, config_path: str | None = None, *, should_stop: ShouldStop = never
) -> str:
    """Evaluates the runs that fit, or the weights in ``settings.weights``; returns the tables.

    Weights are imported into a run whose name is derived from their content, the network, the
    settings and the data: a second call finds that run and continues its evaluation. See
    ``import_weights`` and ``evaluate_runs``.

    Args:
        settings: The settings.
        config_path: Path of the config file, for the command that trains a missing norm.
        should_stop: Called before each part of the work.

    Raises:
        UsageError: As the functions named above, and when ``--name`` names a folder with other
            weights.
    """
    if settings.weights is None:
        return evaluate_runs(Config.of(settings), config_path, should_stop=should_stop)
    file, dataset = Path(settings.weights), None
    named = settings
    if settings.name is None:  # the name depends on the data
        dataset = load_data(settings)
        named = replace(settings, name=_name(settings, file, dataset))
    config = Config.of(named)
    folder = config.folder
    run = Run.find(folder, "best")
    if run is None:
        shared = {
            f.name: getattr(named, f.name) for f in fields(ImportSettings) if f.name != "file"
        }
        log.info("%s", import_weights(ImportSettings(**shared, file=[settings.weights]), dataset))
    else:
        found = {key: run.imported.get(key) for key in ("sha256", "asked")}
        if found != {"sha256": digest_of(file), "asked": asked(settings)}:
            raise UsageError(
                f"{folder} holds other weights, or those of {file} read with other settings; "
                "choose another --name, or remove that folder"
            )
        run.check_settings(config)
        log.info("%s: already holds these weights", folder)
    return evaluate_runs(config, config_path, should_stop=should_stop, dataset=dataset)


def _name(settings: EvalSettings, file: Path, dataset: Dataset) -> str:
    """Returns a name for the weights' folders: their file's, and a hash of all that matters."""
    left_out = (names(Files, Evaluation) | {"name"}) - {"resize"}
    config = Config.of(settings).to_dict()
    content = {
        "weights": digest_of(file),
        "data": dataset.sha256,
        **asked(settings),
        **{key: value for key, value in config.items() if key not in left_out},
    }
    stem = re.sub(r"[^A-Za-z0-9_-]+", "-", file.stem)[:40].strip("-") or "weights"
    return f"{stem}-{fingerprint(content)[:8]}"

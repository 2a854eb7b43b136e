"""Trains and measures the GANs of Table 1; writes the table with its figures and page."""

from __future__ import annotations

import itertools
import logging
import shlex
from functools import cache
from pathlib import Path
from typing import Any

from robustnorm.applications.gan.features import Features, trained_classifier
from robustnorm.applications.gan.inception import InceptionFeatures
from robustnorm.applications.gan.measures import Measures, check_number, shrunk
from robustnorm.applications.gan.record import GanRecord
from robustnorm.applications.gan.report import write_grid, write_report
from robustnorm.applications.gan.run import GanRun, train_gan
from robustnorm.data import check_data, load_dataset
from robustnorm.data.dataset import Dataset
from robustnorm.settings.gan import GanSettings
from robustnorm.system.device import resolve_device
from robustnorm.system.errors import UsageError
from robustnorm.system.extras import check_report
from robustnorm.system.stopping import ShouldStop, never

log = logging.getLogger("robustnorm")


def table1(
    config: GanSettings, config_path: str | None = None, *, should_stop: ShouldStop = never
) -> str:
    """Trains all runs without a record, then writes Table 1 from all records.

    Both norms of a seed are trained before the next seed.

    Args:
        config: The settings.
        config_path: Path of the config file, for the command on the page.
        should_stop: Called after every step; the same command continues.

    Returns:
        Summary and tables as text.

    Raises:
        UsageError: When a record has other settings, data or features; otherwise as ``train_gan``.
        DataError, CheckpointError, RecordError, Stopped: As ``train_gan``.
        ImportError: When the packages of the extra "report" or, for Inception, "fidelity" are not
            installed.
    """
    check_report()
    folder = Path(config.reports) / config.name
    runs = [
        GanRun(network, norm, seed)
        for network, seed, norm in itertools.product(config.networks, config.seeds, config.norms)
    ]
    missing = [run for run in runs if not _path(folder, run).exists()]
    found = {run: _load(folder, run, config) for run in runs if run not in missing}
    if config.train:
        dataset = _dataset(config)
        for run, record in found.items():
            _check_same(_path(folder, run), record.dataset, dataset.name, dataset.sha256)
        found |= _trained(config, missing, found, dataset, folder, should_stop)
    options = f" --config {shlex.quote(config_path)}" if config_path else ""
    return write_report(
        [found[run] for run in runs if run in found],
        folder,
        f"robustnorm table1{options} --data {shlex.quote(Path(config.data).name)} "
        f"--seeds {','.join(map(str, config.seeds))}",
    )


def _path(folder: Path, run: GanRun) -> Path:
    return folder / "records" / f"{run.name}.json"


def _load(folder: Path, run: GanRun, config: GanSettings) -> GanRecord:
    path = _path(folder, run)
    record = GanRecord.load(path)
    settings = config.to_dict() | run._asdict()
    differing = [name for name, value in settings.items() if record.config.get(name) != value]
    if differing:
        found = ", ".join(f"{name} {record.config.get(name)}" for name in differing)
        raise UsageError(
            f"{path} has other settings ({found} there); choose another --name, or remove it"
        )
    return record


def _dataset(config: GanSettings) -> Dataset:
    check_data(config.data)
    full_size = load_dataset(
        config.data, root=Path(config.data_root), download=config.download, stream=False
    )
    check_number(full_size)
    return shrunk(full_size, config.image_size)


def _check_same(path: Path, recorded: dict[str, Any], name: str, sha256: str) -> None:
    """Raises a UsageError when a record is of other data or another feature network."""
    if recorded["sha256"] != sha256:
        there = recorded.get("name", recorded.get("network"))
        raise UsageError(
            f"{path} was made with {there} ({recorded['sha256'][:12]}), but here is {name} "
            f"({sha256[:12]}); use the same again, choose another --name, or give --train false to "
            "see what is recorded"
        )


def _trained(
    config: GanSettings,
    runs: list[GanRun],
    found: dict[GanRun, GanRecord],
    dataset: Dataset,
    folder: Path,
    should_stop: ShouldStop,
) -> dict[GanRun, GanRecord]:
    """Trains the runs in order; writes the record and the images of each.

    Args:
        config: The settings.
        runs: The runs to train.
        found: Records that they will be compared with.
        dataset: At the generators' size.
        folder: Output folder.
        should_stop: Called after every step.
    """
    device = resolve_device(config.device)

    @cache
    def measures() -> Measures:
        features: Features
        if config.features == "inception":
            features = InceptionFeatures(Path(str(config.inception_weights)), device)
        else:
            classifier = Path(config.output) / config.name / "classifier"
            features = trained_classifier(dataset, config, device, classifier)
        made_with = features.description
        for run, record in found.items():  # before the first step of the others
            path = _path(folder, run)
            _check_same(path, record.features, made_with["network"], made_with["sha256"])
        return Measures(features, dataset, images=config.eval_images, latent_dim=config.latent_dim)

    made = {}
    for number, run in enumerate(runs, 1):
        log.info("run %d of %d: %s", number, len(runs), run.name)
        finished = train_gan(config, run, dataset, measures, device, should_stop)
        write_grid(finished.images, folder / "images" / f"{run.name}.png")
        finished.record.save(_path(folder, run))
        log.info("wrote %s", _path(folder, run))
        made[run] = finished.record
    return made

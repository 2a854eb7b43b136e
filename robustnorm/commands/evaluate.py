"""Evaluates what is trained; prints and writes the tables."""

from __future__ import annotations

import logging
import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from robustnorm.config import WHERE, Config
from robustnorm.data.dataset import Dataset, subset
from robustnorm.evaluation.chunks import CHUNK
from robustnorm.evaluation.evaluate import evaluate
from robustnorm.evaluation.journal import Journal
from robustnorm.evaluation.records import Record, fingerprint
from robustnorm.reporting.render import to_text
from robustnorm.reporting.tables import tables, write_tables
from robustnorm.runs import (
    UsageError,
    check_same_dataset,
    device_name,
    find_runs,
    load_data,
    load_model,
    misfit,
    resolve_device,
    run_folder,
    to_channels_last,
)
from robustnorm.source import source_commit
from robustnorm.stopping import ShouldStop, never
from robustnorm.training.checkpoint import read_manifest

log = logging.getLogger("robustnorm")

# PGD steps of Table 4.
STEPS = (10, 20)


def evaluate_runs(config: Config, config_path: str | None = None) -> str:
    """Evaluates every checkpoint that fits ``config``, writes reports, returns the tables as text.

    A checkpoint evaluated before under the same protocol is not evaluated again.

    Args:
        config: The settings; norm and seed do not matter.
        config_path: Of the config file, for the command that trains a missing norm.

    Raises:
        UsageError: When no checkpoint fits, or one was trained on other data.
    """
    train_command = "make train NORM={norm}" + (f" CONFIG={config_path}" if config_path else "")
    runs = find_runs(config)
    for folder, manifest in list(runs.items()):
        difference = misfit(config, manifest)
        if difference:
            log.warning("%s is left out, its settings differ: %s", folder, difference)
            del runs[folder]
    if not runs:
        raise UsageError(
            f"no checkpoint '{config.checkpoint}' fits this config under "
            f"{run_folder(config).parent}; train one first: {train_command.format(norm='saauxbn')}"
        )
    device = resolve_device(config.device)
    dataset = load_data(config)
    for folder, manifest in runs.items():
        check_same_dataset(manifest, dataset, folder)
    reports = Path(config.reports) / str(config.name)
    records = [evaluate_run(folder, config, dataset, device, reports) for folder in runs]
    for path in write_tables(records, reports, train_command=train_command):
        log.info("wrote %s", path)
    return to_text(tables(records, train_command=train_command))


def evaluate_run(
    folder: Path,
    config: Config,
    dataset: Dataset,
    device: torch.device,
    reports: Path,
    should_stop: ShouldStop = never,
) -> Record:
    """Evaluates the checkpoint ``config.checkpoint`` of a run, unless it is evaluated already.

    Args:
        folder: Of the run.
        config: What to evaluate and how; norm and seed do not matter.
        dataset: Its test images are attacked.
        device: Where.
        reports: Folder whose ``records`` hold the record.
        should_stop: As ``evaluate`` asks it.

    Raises:
        CheckpointError, RecordError: When a file is missing or damaged.
        Stopped: When ``should_stop`` says so; the next call goes on.
    """
    record = find_record(folder, config, dataset, reports)
    if record is not None:
        log.info("%s: evaluated before, in %s", folder.name, record_path(folder, config, reports))
        return record
    model, manifest = load_model(folder, config.checkpoint)
    trained = Config.from_dict(manifest["config"])
    ids, test = subset(dataset.test, config.test_limit)
    protocol = _evaluation_protocol(config)
    identity = _identity(manifest, config, dataset)
    path = record_path(folder, config, reports)
    model.to(device)
    if trained.channels_last:
        to_channels_last(model)
    journal = path.with_suffix(".journal")
    verdicts = evaluate(
        model,
        test.images,
        test.labels,
        epsilon=float(config.epsilon),
        step_size=float(config.step_size),
        steps=STEPS,
        threat_model=config.threat_model,
        precision=config.eval_precision,
        serving=config.serving,
        attacks=config.attacks,
        seed=config.eval_seed,
        image_ids=ids,
        journal=journal,
        fingerprint=fingerprint(identity),
        progress=f"evaluating {folder.name}",
        should_stop=should_stop,
    )
    # Paths and devices are left out: they decide nothing, and a record may be published.
    settings = {key: value for key, value in trained.to_dict().items() if key not in WHERE}
    record = Record(
        name=str(config.name),
        norm=trained.norm,
        seed=trained.seed,
        adversarial=trained.adversarial,
        checkpoint={
            "tag": config.checkpoint,
            "epoch": manifest["epoch"],
            "epochs": trained.epochs,
            "sha256": manifest["sha256"],
        },
        config=settings,
        config_hash=fingerprint(settings),
        history=(read_manifest(folder, "last") or manifest)["history"],
        dataset={
            key: manifest["dataset"][key]
            for key in ("name", "sha256", "classes", "train_images", "test_images")
        },
        image_ids=ids.tolist(),
        labels=test.labels.tolist(),
        protocol=protocol,
        protocol_hash=fingerprint(protocol),
        verdicts=verdicts,
        checks=[],
        curve=[],
        examples=[],
        versions={name: version(name) for name in ("robustnorm", "torch", "numpy")}
        | {"python": platform.python_version()}
        | source_commit(),
        device=device_name(device),
        wall_seconds=round(Journal(journal, fingerprint(identity)).seconds, 2),
    )
    record.save(path)
    journal.unlink(missing_ok=True)
    log.info("%s: %d images in %.0f s", folder.name, record.n, record.wall_seconds)
    return record


def _evaluation_protocol(config: Config) -> dict[str, Any]:
    return {
        "name": config.protocol,
        "threat_model": config.threat_model,
        "epsilon": str(config.epsilon),
        "step_size": str(config.step_size),
        "steps": max(STEPS),
        "random_start": True,
        "seed": config.eval_seed,
        "chunk": CHUNK,
        "precision": "fp32",
        "search": f"folded, {config.eval_precision}",
        "serving": config.serving,
        "attacks": list(config.attacks),
        "train_steps": config.train_steps,
        "attack_norm_mode": config.attack_norm_mode,
    }


def record_path(folder: Path, config: Config, reports: Path) -> Path:
    """Returns where the record of a run's checkpoint is, or will be."""
    return reports / "records" / f"{folder.name}-{config.checkpoint}.json"


def find_record(folder: Path, config: Config, dataset: Dataset, reports: Path) -> Record | None:
    """Returns the record of a run's checkpoint, evaluated as ``config`` says; None without one."""
    path, manifest = record_path(folder, config, reports), read_manifest(folder, config.checkpoint)
    if manifest is None or not path.exists():
        return None
    record = Record.load(path)
    found = {
        "checkpoint": record.checkpoint["sha256"],
        "dataset": record.dataset["sha256"],
        "protocol": record.protocol_hash,
        "image_ids": list(record.image_ids),
    }
    return record if found == _identity(manifest, config, dataset) else None


def _identity(manifest: dict[str, Any], config: Config, dataset: Dataset) -> dict[str, Any]:
    """Returns all that verdicts follow from."""
    return {
        "checkpoint": manifest["sha256"],
        "dataset": dataset.sha256,
        "protocol": fingerprint(_evaluation_protocol(config)),
        "image_ids": subset(dataset.test, config.test_limit)[0].tolist(),
    }

"""Evaluates what is trained; prints and writes the tables."""

from __future__ import annotations

import logging
import platform
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from robustnorm.config import WHERE, Config
from robustnorm.data.dataset import Dataset, subset
from robustnorm.evaluation.chunks import CHUNK
from robustnorm.evaluation.evaluate import evaluate
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
    return report(evaluate_records(config, config_path), config, config_path)


def report(records: list[Record], config: Config, config_path: str | None = None) -> str:
    """Writes the tables of ``records`` into the config's reports; returns them as text."""
    train_command = _train_command(config_path)
    for path in write_tables(
        records, Path(config.reports) / str(config.name), train_command=train_command
    ):
        log.info("wrote %s", path)
    return to_text(tables(records, train_command=train_command))


def evaluate_records(config: Config, config_path: str | None = None) -> list[Record]:
    """Evaluates every checkpoint that fits ``config``; arguments and errors as ``evaluate_runs``.

    Returns:
        A record a checkpoint, in the alphabetical order of the runs' folders.
    """
    runs = find_runs(config)
    for folder, manifest in list(runs.items()):
        difference = misfit(config, manifest)
        if difference:
            log.warning("%s is left out, its settings differ: %s", folder, difference)
            del runs[folder]
    if not runs:
        raise UsageError(
            f"no checkpoint '{config.checkpoint}' fits this config under "
            f"{run_folder(config).parent}; train one first: "
            f"{_train_command(config_path).format(norm='saauxbn')}"
        )
    device = resolve_device(config.device)
    dataset = load_data(config)
    for folder, manifest in runs.items():
        check_same_dataset(manifest, dataset, folder)
    reports = Path(config.reports) / str(config.name)
    return [_evaluate_run(folder, config, dataset, device, reports) for folder in runs]


def _train_command(config_path: str | None) -> str:
    return "make train NORM={norm}" + (f" CONFIG={config_path}" if config_path else "")


def _evaluate_run(
    folder: Path, config: Config, dataset: Dataset, device: torch.device, reports: Path
) -> Record:
    model, manifest = load_model(folder, config.checkpoint)
    trained = Config.from_dict(manifest["config"])
    ids, test = subset(dataset.test, config.test_limit)
    protocol = _evaluation_protocol(config)
    wanted = {
        "checkpoint": manifest["sha256"],
        "dataset": dataset.sha256,
        "protocol": fingerprint(protocol),
        "image_ids": ids.tolist(),
    }
    path = reports / "records" / f"{folder.name}-{config.checkpoint}.json"
    if path.exists():
        record = Record.load(path)
        if identity(record) == wanted:
            log.info("%s: evaluated before, in %s", folder.name, path)
            return record
    model.to(device)
    if trained.channels_last:
        to_channels_last(model)
    journal = path.with_suffix(".journal")
    start = time.perf_counter()
    verdicts = evaluate(
        model,
        test.images,
        test.labels,
        epsilon=float(config.attack.epsilon),
        step_size=float(config.attack.step_size),
        threat_model=config.attack.threat_model,
        branch_attacks=config.branches,
        steps=STEPS,
        precision=config.eval_precision,
        serving=config.serving,
        attacks=config.attacks,
        seed=config.eval_seed,
        image_ids=ids,
        journal=journal,
        fingerprint=fingerprint(wanted),
        progress=f"evaluating {folder.name}",
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
        | {"python": platform.python_version()},
        device=device_name(device),
        wall_seconds=round(time.perf_counter() - start, 2),
    )
    record.save(path)
    journal.unlink(missing_ok=True)
    log.info("%s: %d images in %.0f s", folder.name, record.n, record.wall_seconds)
    return record


def _evaluation_protocol(config: Config) -> dict[str, Any]:
    return {
        "name": config.protocol,
        "threat_model": config.attack.threat_model,
        "epsilon": str(config.attack.epsilon),
        "step_size": str(config.attack.step_size),
        "branches": config.to_dict()["branches"],
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


def identity(record: Record) -> dict[str, Any]:
    """Returns what a record's verdicts follow from."""
    return {
        "checkpoint": record.checkpoint["sha256"],
        "dataset": record.dataset["sha256"],
        "protocol": record.protocol_hash,
        "image_ids": list(record.image_ids),
    }

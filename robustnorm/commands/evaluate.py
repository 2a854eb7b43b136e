"""Evaluates what is trained; prints and writes the tables."""

from __future__ import annotations

import logging
import platform
import time
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import nn

from robustnorm.config import WHERE, Config
from robustnorm.data.dataset import Dataset, subset
from robustnorm.evaluation.chunks import CHUNK
from robustnorm.evaluation.evaluate import evaluate
from robustnorm.evaluation.examples import make_examples
from robustnorm.evaluation.images import hashes
from robustnorm.evaluation.records import Check, CurvePoint, Record, fingerprint
from robustnorm.evaluation.search import Search
from robustnorm.evaluation.transfer import PREFIX, transfer
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
    records = [_evaluate_run(folder, config, dataset, device, reports) for folder in runs]
    if config.transfer:
        records = _transfer(dict(zip(runs, records, strict=True)), config, dataset, device, reports)
    for path in write_tables(records, reports, train_command=train_command):
        log.info("wrote %s", path)
    return to_text(tables(records, train_command=train_command))


def _evaluate_run(
    folder: Path, config: Config, dataset: Dataset, device: torch.device, reports: Path
) -> Record:
    model, manifest = load_model(folder, config.checkpoint)
    trained = Config.from_dict(manifest["config"])
    ids, test = subset(dataset.test, config.test_limit)
    protocol = _evaluation_protocol(config)
    identity = {
        "checkpoint": manifest["sha256"],
        "dataset": dataset.sha256,
        "protocol": fingerprint(protocol),
        "image_ids": ids.tolist(),
    }
    path = _record_path(reports, folder, config)
    keep = _images_folder(path) if config.keep_images or config.transfer else None
    if path.exists():
        record = Record.load(path)
        if _identity(record) == identity and (keep is None or _has_images(record, keep)):
            log.info("%s: evaluated before, in %s", folder.name, path)
            return record
    _prepare(model, trained, device)
    search = Search(
        float(config.epsilon),
        float(config.step_size),
        STEPS,
        config.threat_model,
        config.eval_seed,
    )
    journal = path.with_suffix(".journal")
    start = time.perf_counter()
    verdicts = evaluate(
        model,
        test.images,
        test.labels,
        **search._asdict(),
        precision=config.eval_precision,
        serving=config.serving,
        attacks=config.attacks,
        image_ids=ids,
        keep=keep,
        journal=journal,
        fingerprint=fingerprint(identity),
        progress=f"evaluating {folder.name}",
    )
    examples = make_examples(
        model,
        test.images,
        test.labels,
        verdicts,
        image_ids=ids,
        search=search,
        precision=config.eval_precision,
    )
    checks: list[Check] = []
    curve: list[CurvePoint] = []
    if config.checks != "none":
        from robustnorm.evaluation.checks import run_checks

        checks, curve = run_checks(
            model,
            test.images,
            test.labels,
            image_ids=ids,
            search=search,
            tier=config.checks,
            serving=config.serving,
            progress=f"checking {folder.name}",
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
        checks=checks,
        curve=curve,
        examples=examples,
        versions={name: version(name) for name in ("robustnorm", "torch", "numpy")}
        | {"python": platform.python_version()},
        device=device_name(device),
        wall_seconds=round(time.perf_counter() - start, 2),
        images={} if keep is None else {"folder": keep.name, "files": hashes(keep)},
    )
    record.save(path)
    journal.unlink(missing_ok=True)
    log.info("%s: %d images in %.0f s", folder.name, record.n, record.wall_seconds)
    return record


def _transfer(
    records: dict[Path, Record],
    config: Config,
    dataset: Dataset,
    device: torch.device,
    reports: Path,
) -> list[Record]:
    """Scores the images of each run by each other one; returns the records with these verdicts."""
    ids, test = subset(dataset.test, config.test_limit)
    done = []
    for folder, record in records.items():
        others = {other: r for other, r in records.items() if other != folder}
        sources = {other.name: r.checkpoint["sha256"] for other, r in others.items()}
        if record.sources != sources:
            model, manifest = load_model(folder, config.checkpoint)
            _prepare(model, Config.from_dict(manifest["config"]), device)
            verdicts = [v for v in record.verdicts if not v.attack.startswith(PREFIX)]
            for other, source in others.items():
                verdicts += transfer(
                    model,
                    test.labels,
                    image_ids=ids,
                    source=source,
                    source_images=_images_folder(_record_path(reports, other, config)),
                    run=other.name,
                    attack=f"pgd-{max(STEPS)}",
                    serving=config.serving,
                    progress=f"{other.name} to {folder.name}",
                )
            record = replace(record, verdicts=verdicts, sources=sources)
            record.save(_record_path(reports, folder, config))
        done.append(record)
    return done


def _prepare(model: nn.Module, trained: Config, device: torch.device) -> None:
    model.to(device)
    if trained.channels_last:
        to_channels_last(model)


def _record_path(reports: Path, folder: Path, config: Config) -> Path:
    return reports / "records" / f"{folder.name}-{config.checkpoint}.json"


def _images_folder(record: Path) -> Path:
    return record.with_suffix(".images")


def _has_images(record: Record, folder: Path) -> bool:
    files = record.images.get("files", {})
    return bool(files) and all((folder / name).exists() for name in files)


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
        "transfer": config.transfer,
        "checks": config.checks,
        "train_steps": config.train_steps,
        "attack_norm_mode": config.attack_norm_mode,
    }


def _identity(record: Record) -> dict[str, Any]:
    return {
        "checkpoint": record.checkpoint["sha256"],
        "dataset": record.dataset["sha256"],
        "protocol": record.protocol_hash,
        "image_ids": list(record.image_ids),
    }

"""The evaluation that a config asks for: its identity, and where its record is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from robustnorm.data.dataset import Dataset, subset
from robustnorm.evaluation.chunks import CHUNK
from robustnorm.evaluation.search import STEPS
from robustnorm.records.record import Record, fingerprint
from robustnorm.runs import Run
from robustnorm.settings.config import Config
from robustnorm.system.errors import UsageError


def record_path(reports: Path, folder: Path, config: Config) -> Path:
    """Returns the path of a run's record; its images and journal are beside it."""
    return reports / "records" / f"{folder.name}-{config.checkpoint}.json"


def journal_path(record: Path) -> Path:
    """Returns the path of the journal of an unfinished evaluation."""
    return record.with_suffix(".journal")


def jobs_folder(record: Path) -> Path:
    """Returns the folder for results of a record's jobs, with a folder for each evaluation."""
    return record.parent.parent / "jobs" / record.stem


def keeps_images(config: Config) -> bool:
    """Returns whether an evaluation keeps its adversarial images."""
    return config.keep_images or config.transfer


def images_folder(record: Path) -> Path:
    """Returns the folder of a record's images."""
    return record.with_suffix(".images")


def _has_images(record: Record, folder: Path) -> bool:
    files = record.images.get("files", {})
    return bool(files) and all((folder / name).exists() for name in files)


def protocol_of(config: Config) -> dict[str, Any]:
    """Returns the settings of the evaluation for its record."""
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
        "attacks": list(config.all_attacks),
        "transfer": config.transfer,
        "checks": config.checks,
        "train_steps": config.train_steps,
        "attack_norm_mode": config.attack_norm_mode,
    }


def identity(record: Record) -> dict[str, Any]:
    """Returns everything that a record's verdicts depend on."""
    return {
        "checkpoint": record.checkpoint["sha256"],
        "dataset": record.dataset["sha256"],
        "protocol": record.protocol_hash,
        "image_ids": list(record.image_ids),
    }


def identity_wanted(run: Run, config: Config, dataset: Dataset) -> dict[str, Any]:
    """Returns the ``identity`` of the record that ``config`` asks for, before it exists."""
    return {
        "checkpoint": run.sha256,
        "dataset": dataset.sha256,
        "protocol": fingerprint(protocol_of(config)),
        "image_ids": subset(dataset.test, config.test_limit)[0].tolist(),
    }


def evaluation_hash(run: Run, config: Config, dataset: Dataset) -> str:
    """Returns the fingerprint of what ``config`` asks for, of a run and data."""
    return fingerprint(identity_wanted(run, config, dataset))


def find_record(run: Run, config: Config, dataset: Dataset, reports: Path) -> Record | None:
    """Returns the record of a run evaluated according to ``config``, or None.

    Raises:
        UsageError: When the record there is of the same checkpoint on other data.
    """
    path = record_path(reports, run.folder, config)
    if not path.exists():
        return None
    record = Record.load(path)
    other_data = record.dataset["sha256"] != dataset.sha256
    if other_data and record.checkpoint["sha256"] == run.sha256:
        raise UsageError(
            f"{path} is the evaluation on {record.dataset['name']}; choose another --reports for "
            f"that on {dataset.name}"
        )
    if keeps_images(config) and not _has_images(record, images_folder(path)):
        return None
    return record if identity(record) == identity_wanted(run, config, dataset) else None

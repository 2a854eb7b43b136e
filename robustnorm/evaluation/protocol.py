"""The evaluation that a config asks for: what identifies it, and where its files are."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from robustnorm.data.dataset import Dataset, subset
from robustnorm.evaluation.chunks import CHUNK
from robustnorm.evaluation.search import STEPS
from robustnorm.records.record import Record, fingerprint
from robustnorm.runs import Run
from robustnorm.settings.config import Config
from robustnorm.system.errors import UsageError

# Settings of the checks, each with everything that the one before it finds.
_TIERS = ("none", "quick", "full")


def record_path(reports: Path, folder: Path, config: Config) -> Path:
    """Returns the path of a run's record; its images and its journal lie beside it."""
    return reports / "records" / f"{folder.name}-{config.checkpoint}.json"


def journal_path(record: Path, wanted: str) -> Path:
    """Returns the path of the journal of an unfinished evaluation.

    Args:
        record: Path of its record.
        wanted: Its ``evaluation_hash``.
    """
    return record.with_name(f"{record.stem}-{wanted}.journal")


def jobs_folder(record: Path) -> Path:
    """Returns the folder for the results of a record's jobs, with one subfolder per evaluation."""
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
    """Returns the evaluation's settings as its record keeps them."""
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


def verdict_settings(protocol: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the settings of a protocol on which verdicts depend: all except the checks."""
    return {name: value for name, value in protocol.items() if name != "checks"}


def record_identity(record: Record) -> dict[str, Any]:
    """Returns everything that a record's verdicts depend on."""
    return {
        "checkpoint": record.checkpoint["sha256"],
        "dataset": record.dataset["sha256"],
        "protocol": fingerprint(verdict_settings(record.protocol)),
        "image_ids": list(record.image_ids),
    }


def wanted_identity(run: Run, config: Config, dataset: Dataset) -> dict[str, Any]:
    """Returns the ``record_identity`` of a record with the verdicts that ``config`` asks for."""
    return {
        "checkpoint": run.sha256,
        "dataset": dataset.sha256,
        "protocol": fingerprint(verdict_settings(protocol_of(config))),
        "image_ids": subset(dataset.test, config.test_limit)[0].tolist(),
    }


def evaluation_hash(run: Run, config: Config, dataset: Dataset) -> str:
    """Returns the fingerprint of ``wanted_identity``."""
    return fingerprint(wanted_identity(run, config, dataset))


def find_record(run: Run, config: Config, dataset: Dataset, reports: Path) -> Record | None:
    """Returns the record of a run evaluated and checked according to ``config``, or None.

    A record with more checks than required is accepted.

    Raises:
        UsageError: When the record is of the same checkpoint, but evaluated on other data.
    """
    found = find_verdicts(run, config, dataset, reports)
    return found if found is not None and is_checked(found, config) else None


def is_checked(record: Record, config: Config) -> bool:
    """Returns whether a record has at least the checks that ``config`` asks for."""
    return record.protocol.get("checks") in _TIERS[_TIERS.index(config.checks) :]


def find_verdicts(run: Run, config: Config, dataset: Dataset, reports: Path) -> Record | None:
    """Returns the record of a run evaluated according to ``config``, with any checks, or None.

    Raises:
        UsageError: When the record is of the same checkpoint, but evaluated on other data.
    """
    path = record_path(reports, run.folder, config)
    if not path.exists():
        return None
    record = Record.load(path)
    other_data = record.dataset["sha256"] != dataset.sha256
    if other_data and record.checkpoint["sha256"] == run.sha256:
        raise UsageError(
            f"{path} holds the evaluation on {record.dataset['name']}; choose another --reports "
            f"for the one on {dataset.name}"
        )
    if keeps_images(config) and not _has_images(record, images_folder(path)):
        return None
    return record if record_identity(record) == wanted_identity(run, config, dataset) else None

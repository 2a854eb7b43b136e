"""Evaluations of one checkpoint under several settings: none is lost, and none is repeated."""

from __future__ import annotations

import logging
import shutil
from dataclasses import replace
from pathlib import Path

from robustnorm.data.dataset import Dataset
from robustnorm.evaluation.protocol import (
    evaluation_hash,
    find_verdicts,
    images_folder,
    record_identity,
    record_path,
)
from robustnorm.records.record import Record, fingerprint
from robustnorm.runs import Run
from robustnorm.settings.config import Config

log = logging.getLogger("robustnorm")


def recall(run: Run, config: Config, dataset: Dataset, reports: Path) -> Record | None:
    """Returns the record with the verdicts that ``config`` asks for, with any checks, or None.

    A record that was set aside is put back in its place.

    Raises:
        UsageError: When the record is of the same checkpoint, but evaluated on other data.
        RecordError: When a record is damaged.
    """
    found = find_verdicts(run, config, dataset, reports)
    path, wanted = record_path(reports, run.folder, config), evaluation_hash(run, config, dataset)
    aside = _aside(path, wanted)
    if found is None and aside.exists():
        set_aside(path, run, wanted)
        _copy(aside, path)
        aside.unlink()
        found = find_verdicts(run, config, dataset, reports)
    return found


def set_aside(path: Path, run: Run, wanted: str) -> None:
    """Keeps the record that is about to be replaced, if it is of the same weights.

    Args:
        path: Where the new record will be written.
        run: Opened at the checkpoint that is evaluated.
        wanted: ``evaluation_hash`` of the new record.
    """
    if not path.exists():
        return
    record = Record.load(path)
    identity = fingerprint(record_identity(record))
    if record.checkpoint["sha256"] == run.sha256 and identity != wanted:
        _copy(path, _aside(path, identity))
        log.info("%s has other settings and is kept as %s", path, _aside(path, identity))


def _aside(path: Path, identity: str) -> Path:
    return path.parent.parent / "earlier" / f"{path.stem}-{identity}.json"


def _copy(source: Path, target: Path) -> None:
    """Copies a record; its kept images move with it."""
    record, images = Record.load(source), images_folder(target)
    if record.images and images_folder(source).is_dir():
        shutil.rmtree(images, ignore_errors=True)
        images.parent.mkdir(parents=True, exist_ok=True)
        images_folder(source).rename(images)
        record = replace(record, images=record.images | {"folder": images.name})
    record.save(target)

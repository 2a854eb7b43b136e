"""Checks a result record again."""

from __future__ import annotations

from pathlib import Path

from robustnorm.data import load_dataset
from robustnorm.records.record import Record
from robustnorm.records.verify import verify
from robustnorm.reporting.verification import conclude
from robustnorm.runs import Run
from robustnorm.settings.config import Config
from robustnorm.settings.results import VerifySettings
from robustnorm.system.device import resolve_device
from robustnorm.system.errors import UsageError


def verify_record(settings: VerifySettings) -> str:
    """Checks a record against its checkpoint, its data and its kept images; returns a table.

    Args:
        settings: The record, and the paths of its checkpoint and data.

    Raises:
        CheckFailed: When a check fails; its text is the table and the first failures.
        UsageError: When the network was given in Python or derived in a study, so that it is in no
            folder.
    """
    path = Path(settings.record)
    record = Record.load(path)
    if record.given:
        raise UsageError(
            f"{path} is of a network that was given in Python, so it is in no folder: check it in "
            f"Python, with Results.load('{path.name}').verify(model, images, labels) from "
            "robustnorm.reporting.results"
        )
    if study := record.protocol.get("study"):
        raise UsageError(
            f"{path} is of the study {study}, whose networks are derived from the run's and not "
            "saved: verify the run's own record, in the folder records"
        )
    trained = Config.from_dict(record.config | {"name": record.name, "output": settings.output})
    run = Run.open(trained.folder, record.checkpoint["tag"])
    dataset = load_dataset(
        settings.data or run.config.data, root=Path(settings.data_root), resize=run.config.resize
    )
    findings = verify(
        record,
        run.network().to(resolve_device(settings.device)),
        run.sha256,
        dataset,
        path.parent / Path(record.images.get("folder", "")).name,
        progress=f"verifying {path.name}",
    )
    return conclude(str(path), record, findings)

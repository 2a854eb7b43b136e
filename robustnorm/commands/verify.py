"""Re-checks a result record."""

from __future__ import annotations

from pathlib import Path

from tabulate import tabulate

from robustnorm.data import load_dataset
from robustnorm.records.record import Record
from robustnorm.records.verify import verify
from robustnorm.runs import Run
from robustnorm.runs.run import run_folder
from robustnorm.settings.config import Config
from robustnorm.settings.results import VerifySettings
from robustnorm.system.device import resolve_device
from robustnorm.system.errors import CheckFailed


def verify_record(settings: VerifySettings) -> str:
    """Re-checks a record against its checkpoint, its data and its kept images; returns a table.

    Args:
        settings: The record, and the paths of its checkpoint and data.

    Raises:
        CheckFailed: When any check fails, with the table and the first failures.
    """
    path = Path(settings.record)
    record = Record.load(path)
    trained = Config.from_dict(record.config | {"name": record.name, "output": settings.output})
    run = Run.open(run_folder(trained), record.checkpoint["tag"])
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
    failures = [f"{f.subject}: {failure}" for f in findings for failure in f.failures]
    rows = [(f.subject, f.checked, f.failed) for f in findings]
    text = f"{path}\n\n" + tabulate(rows, headers=("Checked", "times", "failed"))
    if not record.sealed:
        text += "\n\nThe record carries no hash: it was written before records had one."
    if failures:
        raise CheckFailed(text + "\n\n" + "\n".join(failures))
    if not record.images:
        return text + "\n\nNo adversarial images were kept: evaluate with --keep_images true."
    return text + "\n\nEverything holds."

"""The outcome of checking a record again, as text."""

from __future__ import annotations

from collections.abc import Sequence

from tabulate import tabulate

from robustnorm.records.record import Record
from robustnorm.records.verify import Verification
from robustnorm.system.errors import CheckFailed


def conclude(title: str, record: Record, findings: Sequence[Verification]) -> str:
    """Returns a table of what was checked, and how often.

    Args:
        title: What was checked, such as the record's path.
        record: The record.
        findings: From ``robustnorm.records.verify``.

    Raises:
        CheckFailed: When a check failed; its text is the same table and the first failures.
    """
    failures = [f"{f.subject}: {failure}" for f in findings for failure in f.failures]
    rows = [(f.subject, f.checked, f.failed) for f in findings]
    text = f"{title}\n\n" + tabulate(rows, headers=("Checked", "times", "failed"))
    if not record.sealed:
        text += "\n\nThe record has no hash: it was written before records had one."
    if failures:
        raise CheckFailed(text + "\n\n" + "\n".join(failures))
    if not record.images:
        return text + "\n\nNo adversarial images were kept: evaluate with --keep_images true."
    return text + "\n\nEverything holds."

"""Updates the block of results between two markers in a README."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from robustnorm.records.record import Record, RecordError
from robustnorm.reporting.claims import claims_text
from robustnorm.reporting.plans import provenance_text
from robustnorm.reporting.render import to_markdown
from robustnorm.reporting.tables import tables
from robustnorm.system.files import write_atomically

_BLOCK = re.compile(r"<!-- reports/[^\n]* -->\n.*?<!-- end -->", re.DOTALL)
_SHOWN = ("table3", "table4", "deployment")


def show_results(readme: Path, folder: str, records: Sequence[Record]) -> None:
    """Replaces the first block of results in a README with the tables of ``records``.

    A block begins with ``<!-- reports/<folder> -->`` and ends with ``<!-- end -->``. It states the
    data, devices, time and commit behind its tables and, for several seeds, the verdict on each of
    the paper's claims.

    Args:
        readme: The file.
        folder: Folder under reports/ that holds the tables and records.
        records: Records of one evaluation.

    Raises:
        RecordError: When the file has no such block.
    """
    text = readme.read_text()
    shown = [
        to_markdown(replace(table, notes=[])).removeprefix("## ").rstrip()
        for table in tables(records)
        if table.name in _SHOWN
    ]
    parts = [provenance_text(records), claims_text(records), *shown]
    text_of_block = "\n\n".join(part for part in parts if part)
    block = f"<!-- reports/{folder} -->\n{text_of_block}\n<!-- end -->"
    changed, found = _BLOCK.subn(lambda _: block, text, count=1)
    if not found:
        raise RecordError(
            f"{readme} has no block of results; add the lines '<!-- reports/{folder} -->' and "
            "'<!-- end -->' where they belong"
        )
    write_atomically(readme, changed.encode())

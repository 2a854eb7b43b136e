"""Updates the block of results between two markers in a README."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from robustnorm.records.record import Record
from robustnorm.reporting.claims import claims_text
from robustnorm.reporting.plans import provenance_text
from robustnorm.reporting.render import to_markdown
from robustnorm.reporting.tables import tables
from robustnorm.system.errors import UsageError
from robustnorm.system.files import write_atomically

_BLOCK = re.compile(r"<!-- reports/[^\r\n]* -->\r?\n.*?<!-- end -->", re.DOTALL)
_SHOWN = ("table3", "table4", "deployment")


def show_results(readme: Path, folder: str, records: Sequence[Record]) -> None:
    """Replaces the first block of results in a README with the tables of ``records``.

    A block begins with ``<!-- reports/<folder> -->`` and ends with ``<!-- end -->``. It states the
    data, devices, time and commit behind its tables, and what they say of the paper's claims.

    Args:
        readme: The file.
        folder: Folder under reports/ that holds the tables and records.
        records: Records of one evaluation.

    Raises:
        UsageError: When the file has no such block, or cannot be read.
    """
    text = check_block(readme)
    shown = [
        to_markdown(replace(table, notes=[])).removeprefix("## ").rstrip()
        for table in tables(records)
        if table.name in _SHOWN
    ]
    parts = [provenance_text(records), claims_text(records), *shown]
    text_of_block = "\n\n".join(part for part in parts if part)
    block = f"<!-- reports/{folder} -->\n{text_of_block}\n<!-- end -->"
    if "\r\n" in text:
        block = block.replace("\n", "\r\n")
    write_atomically(readme, _BLOCK.sub(lambda _: block, text, count=1).encode())


def check_block(readme: Path) -> str:
    """Returns the text of a file that has a block of results.

    Raises:
        UsageError: When the file has none, or cannot be read.
    """
    try:
        text = readme.read_bytes().decode()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{readme} cannot be read as UTF-8 text: {error}") from error
    if not _BLOCK.search(text):
        raise UsageError(
            f"{readme} has no block of results; add the lines '<!-- reports/results -->' and "
            "'<!-- end -->' where they belong"
        )
    return text

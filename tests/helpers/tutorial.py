"""The tutorial as a notebook: cells from the page's text and code.

    python tests/helpers/tutorial.py

writes docs/tutorial.ipynb. A block of Python whose first line names a file becomes a cell that
writes the file, a block of commands one of ``%%sh``.
"""

import json
import re
from pathlib import Path

DOCS = Path(__file__).parents[2] / "docs"
_BLOCK = re.compile(r"```(python|sh)\n(.*?)```\n", re.DOTALL)


def cells(page: str) -> list[tuple[str, str]]:
    """Returns (kind, source) of each cell, "markdown" or "code"."""
    found, end = [], 0
    for match in _BLOCK.finditer(page):
        found.append(("markdown", page[end : match.start()].strip()))
        language, code = match.groups()
        file = re.match(r"# (\w+\.py)\n", code)
        if language == "sh":
            code = f"%%sh\n{code}"
        elif file:
            code = f"%%writefile {file[1]}\n{code[file.end() :]}"
        found.append(("code", code.rstrip()))
        end = match.end()
    return [cell for cell in (*found, ("markdown", page[end:].strip())) if cell[1]]


def notebook(page: str) -> str:
    """Returns the notebook of a page, format 4.4."""
    outputs = {"markdown": {}, "code": {"execution_count": None, "outputs": []}}
    made = [
        {"cell_type": kind, "metadata": {}, "source": text.splitlines(keepends=True)}
        | outputs[kind]
        for kind, text in cells(page)
    ]
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    content = {
        "cells": made,
        "metadata": {"kernelspec": kernel, "language_info": {"name": "python"}},
        "nbformat": 4,
        "nbformat_minor": 4,
    }
    return json.dumps(content, indent=1, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    (DOCS / "tutorial.ipynb").write_text(notebook((DOCS / "tutorial.md").read_text()))

"""The tutorial runs from its first line to its last, and the notebook is the page."""

import json
import shlex
import sys
from pathlib import Path

import pytest
import torch
import tutorial

from robustnorm import cli
from robustnorm.records.record import Record
from robustnorm.system.errors import Status

PAGE = (tutorial.DOCS / "tutorial.md").read_text()
NOTEBOOK = (tutorial.DOCS / "tutorial.ipynb").read_text()


def test_notebook_is_the_page():
    assert tutorial.notebook(PAGE) == NOTEBOOK, "write it with: python tests/helpers/tutorial.py"


def run_commands(text):
    for line in text.replace("\\\n", " ").splitlines():
        program, *words = shlex.split(line)
        assert program == "robustnorm"
        assert cli.main([*words]) == Status.DONE


@pytest.fixture
def names(short_worst, tmp_path, monkeypatch):
    """The notebook's variables, in an empty folder from which modules are imported."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "mynet", raising=False)
    yield {}
    sys.modules.pop("mynet", None)


@pytest.mark.slow
def test_every_cell_of_the_notebook_runs(names, capsys):
    with torch.random.fork_rng():
        for cell in json.loads(NOTEBOOK)["cells"]:
            first, _, rest = "".join(cell["source"]).partition("\n")
            if cell["cell_type"] == "markdown":
                continue
            if first == "%%sh":
                run_commands(rest)
            elif first.startswith("%%writefile "):
                Path(first.split()[1]).write_text(rest)
            else:
                exec(f"{first}\n{rest}", names)
    printed = capsys.readouterr().out
    for title in ("Table 4", "Paired tests on the same images", "predictions on clean images"):
        assert title in printed
    for page in ("reports/both/report.html", "mine.html"):
        assert Path(page).stat().st_size > 10_000
    mine = Record.load(Path("reports/mine/records/bn-seed0-best.json"))
    given, imported = names["results"][0], mine.verdicts[0]
    assert given.attack == imported.attack == "none"
    assert (given.correct == imported.correct).all()  # one network, by two ways

"""The commands of docs/moving-runs.md, run as written."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MAKE, USE = re.findall(
    r"(?:^ {4}.+\n)+", (ROOT / "docs/moving-runs.md").read_text(), flags=re.MULTILINE
)


def run(commands, folder):
    shell = ["bash", "-ec", commands]
    return subprocess.run(shell, cwd=folder, capture_output=True, text=True, check=False)


@pytest.fixture
def there(tmp_path):
    """Another machine's folder, with the pieces of two megabytes of runs in it."""
    here, there = tmp_path / "here", tmp_path / "there"
    for name in ("checkpoints/small/bn-seed0/last.json", "reports/small/tables.md"):
        (here / name).parent.mkdir(parents=True)
        (here / name).write_bytes(name.encode() * 40_000)
    done = run(MAKE.replace("15M", "1M"), here)
    assert done.returncode == 0, done.stderr
    shutil.copytree(here / "moved", there / "moved")
    return there


def test_moved_runs_are_the_same(there):
    assert len(list(there.glob("moved/piece-*"))) > 1
    assert run(USE, there).returncode == 0
    for path in (path for path in (there.parent / "here").glob("[cr]*/**/*") if path.is_file()):
        assert (there / path.relative_to(there.parent / "here")).read_bytes() == path.read_bytes()
    assert (there / "reports/small/tables.md").exists()


@pytest.mark.parametrize("fault", ["damaged", "missing"])
def test_piece_that_is_not_whole_is_named_and_nothing_is_unpacked(there, fault):
    piece = there / "moved/piece-ab"
    if fault == "missing":
        piece.unlink()
    else:
        piece.write_bytes(piece.read_bytes()[:-1] + b"?")
    done = run(USE, there)
    assert done.returncode != 0
    assert "piece-ab" in done.stdout + done.stderr
    assert {path.name for path in there.iterdir()} == {"moved"}

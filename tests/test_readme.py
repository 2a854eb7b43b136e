"""The README keeps its promises."""

import json
import re
import subprocess
from pathlib import Path

import pytest
import torch

from robustnorm.evaluation import chunks
from robustnorm.evaluation.statistics import wilson
from robustnorm.records.record import Record
from robustnorm.reporting.claims import claims_text

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
PAGES = {path.name: path.read_text() for path in (ROOT / "docs").glob("*.md")}
EVERYTHING = "\n".join([README, *PAGES.values()])
BLOCKS = re.findall(r"<!-- reports/(\S+) -->\n(.*?)\n<!-- end -->", EVERYTHING, re.DOTALL)


def examples(text):
    return re.findall(r"```python\n(.*?)```", text, re.DOTALL)


(API,) = examples(README)
_, SIX_LINES, GROUP_NORM = examples(PAGES["python.md"])


def test_readme_fits_on_a_few_screens():
    assert len(README.splitlines()) <= 150


def test_links_lead_somewhere():
    for folder, text in [(ROOT, README), *((ROOT / "docs", text) for text in PAGES.values())]:
        for link in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", text):
            assert (folder / link).exists(), link


def test_example_of_the_api_runs(capsys, monkeypatch):
    monkeypatch.setattr(chunks, "CHUNK", 8)  # no padding of 8 images to 100
    torch.manual_seed(0)
    exec(compile(API, "README.md", "exec"), {})
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split()[:4] == ["none", "final", "clean", "clean"]
    # Each branch: no attack, PGD-10 and PGD-20 by two rules, PGD-20 scored by the other branch.
    assert len(lines) == 2 * (1 + 2 * 2 + 1)


def test_six_lines_lead_from_a_network_to_its_page(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert len([line for line in SIX_LINES.splitlines() if line]) == 6
    names = {}
    small = SIX_LINES.replace("width=16", "width=1").replace("3 / 16)", "3 / 16, steps=[1])")
    exec(compile(small, "python.md", "exec"), names)
    page = (tmp_path / "page.html").read_text()
    assert "<h1>ResNet on " in page
    assert "500 of 500" in page
    assert str(names["results"]).startswith("ResNet on ")


def test_example_of_a_norm_builds_a_layer():
    names = {}
    exec(compile(GROUP_NORM, "README.md", "exec"), names)
    layer = names["groupnorm"](4, ("clean", "adv"))
    assert layer(torch.rand(2, 4, 3, 3)).shape == (2, 4, 3, 3)


def test_every_config_is_listed():
    rows = re.findall(r"^\| (`[\w-]+\.yaml`.*?) \|", PAGES["training.md"], re.MULTILINE)
    listed = set(re.findall(r"[\w-]+\.yaml", " ".join(rows)))
    assert listed == {path.name for path in (ROOT / "configs").glob("*.yaml")}


def test_every_make_target_exists():
    targets = set(re.findall(r"^([a-z0-9]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    used = set(re.findall(r"(?:^ {4}|`)make ([a-z0-9]+)", EVERYTHING, re.MULTILINE))
    assert {"demo", "test", "check", "train", "eval", "reproduce"} <= used <= targets


@pytest.mark.parametrize(("report", "shown"), BLOCKS)
def test_results_are_those_of_the_committed_report(report, shown):
    rows = [line for line in shown.splitlines() if line.startswith("|")]
    assert len(rows) > 6
    assert set(rows) <= set(committed(f"reports/{report}/tables.md").splitlines())


def test_claims_are_what_the_committed_records_say():
    records = [Record.load(path) for path in (ROOT / "reports/cpu/best/records").glob("*.json")]
    said = [line for line in claims_text(records).splitlines() if line.lstrip()[:2] == "- "]
    shown = [
        [line for line in text.splitlines() if line.lstrip()[:2] == "- "]
        for report, text in BLOCKS
        if report == "cpu/best"
    ]
    assert len(said) > 10
    assert max(shown, key=len) == said  # docs/results.md
    assert all(set(lines) <= set(said) for lines in shown)  # README


def test_committed_records_are_small_and_hold_no_images_but_the_digits():
    git = ["git", "-C", str(ROOT)]
    listed = subprocess.run([*git, "ls-files", "reports/*.json"], capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("not a git checkout")
    paths = [path for path in listed.stdout.splitlines() if "/records/" in path]
    assert len(paths) > 50
    for path in paths:
        content = committed(path)
        assert len(content) <= 100_000, path
        record = json.loads(content)
        if record.get("examples"):
            assert record["dataset"]["name"] == "scikit-learn digits", path


def test_comparison_with_autoattack_is_that_of_the_records():
    section = PAGES["evaluation.md"].split("`reports/cpu/autoattack`")[1].split("\n\n")[1]
    rows = section.split("\n", 2)[2]
    shown = dict(re.findall(r"^\| ([^|]+) \| (.*) \|$", rows, re.MULTILINE))
    paths = sorted((ROOT / "reports/cpu/autoattack/records").glob("*.json"))
    expected = {}
    for record in map(Record.load, paths):
        for branch in record.branches:
            run = record.norm + "-plain" * (not record.adversarial)
            pgd, worst, peer = (
                record.find(attack, "final", branch, branch)
                for attack in ("pgd-20", "worst", "autoattack")
            )
            ours, theirs = worst.correct, peer.correct
            passes, others = (v.forward + v.backward for v in (worst, peer))
            low, high = wilson(int(theirs.sum()), record.n)
            cells = (
                *(f"{100 * v.accuracy:.1f}" for v in (pgd, worst, peer)),
                f"[{100 * low:.1f}, {100 * high:.1f}]",
                *(f"{int(n.sum()):,}" for n in (ours == theirs, theirs & ~ours, ours & ~theirs)),
                *(f"{passes:,}", f"{others:,}", f"{others / passes:.1f}"),
            )
            name = run if len(record.branches) == 1 else f"{run} ({branch})"
            expected[name] = " | ".join(cells)
    assert len(expected) >= 3
    assert shown == expected


def committed(path):
    """A file as committed: commands such as ``make demo`` write their own over it."""
    shown = subprocess.run(
        ["git", "-C", str(ROOT), "show", f"HEAD:{path}"], capture_output=True, text=True
    )
    return (ROOT / path).read_text() if shown.returncode else shown.stdout

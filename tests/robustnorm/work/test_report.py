"""The report's command: which records it reads, where it writes, what it refuses."""

import json
import sys
from html import unescape
from pathlib import Path

import pytest
from record_factory import N, make_record

from robustnorm import cli
from robustnorm.settings.results import ReportSettings
from robustnorm.system.sealed import seal, unseal
from robustnorm.work.report import report


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def save(place, config, norm, **changes):
    record = make_record(norm, name=config, **changes)
    record.save(place / "reports" / config / "records" / f"{norm}-seed0-best.json")


def refused(capsys, *words, status=2):
    assert cli.main(words) == status
    return capsys.readouterr().err.splitlines()[-1]


def test_report_reads_the_records_of_the_config(place):
    save(place, "digits", "auxbn")
    assert cli.main(["report", "--config", "digits"]) == 0
    text = (place / "reports" / "digits" / "report.html").read_text()
    assert "<h1>digits: robustness by branch</h1>" in text
    assert "make report CONFIG=" in text
    (place / "my digits.yaml").write_text("name: digits\n")
    assert cli.main(["report", "--config", "my digits.yaml"]) == 0
    text = (place / "reports" / "digits" / "report.html").read_text()
    assert "make report CONFIG='my digits.yaml'" in unescape(text)


def test_records_given_by_place_are_compared_each_once(place):
    save(place, "one", "auxbn")
    save(place, "two", "auxbn", sa=170)
    words = ["reports/one", "reports/two/records", "reports/one/records/auxbn-seed0-best.json"]
    assert cli.main(["report", *words, "--name", "both"]) == 0
    text = (place / "reports" / "both" / "report.html").read_text()
    assert "<h1>one, two: robustness by branch</h1>" in text
    assert "AuxBN, two (clean)" in text
    assert f"<pre>robustnorm report {' '.join(words)} --name both</pre>" in text


def test_report_without_records_says_how_to_make_some(capsys):
    message = refused(capsys, "report", "--config", "digits")
    assert "no result records in reports/digits; run robustnorm eval first" in message


def test_report_of_a_campaign_s_plan_names_its_evaluations(place, capsys):
    save(place, "plan/best", "bn")
    save(place, "plan/last", "bn")
    message = refused(capsys, "report", "--name", "plan")
    assert (
        "no result records in reports/plan; name one of reports/plan/best, reports/plan/last"
        in (message)
    )


def test_report_of_two_evaluations_names_both_and_the_way_out(place, capsys):
    save(place, "digits", "auxbn")
    last = make_record("auxbn", name="digits", checkpoint={"tag": "last", "epoch": 3, "epochs": 3,
                       "sha256": "cd"}, image_ids=list(range(800, 800 + N)))  # fmt: skip
    last.save(place / "reports" / "digits" / "records" / "auxbn-seed0-last.json")
    message = refused(capsys, "report", "--config", "digits", status=5)
    assert "different test images for auxbn seed 0 and auxbn seed 0" in message
    assert f"(checkpoint 'best', {N} images; checkpoint 'last', {N} images)" in message
    assert "name the records to show, as in robustnorm report FILE" in message
    path = "reports/digits/records/auxbn-seed0-last.json"
    assert cli.main(["report", path, "--name", "digits"]) == 0


def test_report_refuses_a_damaged_record(capsys, place):
    (place / "odd.json").write_text("{}")
    assert "odd.json is not a result record" in refused(capsys, "report", "odd.json", status=5)


def test_report_without_its_packages_names_the_extra(capsys, place, monkeypatch):
    save(place, "digits", "bn")
    monkeypatch.setitem(sys.modules, "robustnorm.reporting.page", None)
    message = refused(capsys, "report", "--config", "digits")
    assert 'pip install "robustnorm[report]"' in message


@pytest.mark.parametrize(
    ("networks", "shown"),
    [(["ab"], True), (["ab", "ab"], True), (["ab", "other"], False), ([], False)],
)
def test_page_of_a_campaign_shows_the_gradients_of_its_networks_only(place, networks, shown):
    """diagnose writes them beside the evaluations; the page of "best" is not of "last" networks."""
    committed = Path(__file__).parents[3] / "reports/cpu/gradients"
    content, _ = unseal(json.loads(min(committed.glob("branches-*.json")).read_bytes()))
    content["checkpoints"] = {str(i): {"sha256": sha256} for i, sha256 in enumerate(networks)}
    folder = place / "reports/plan/gradients"
    folder.mkdir(parents=True)
    (folder / "branches.json").write_text(json.dumps(seal(content)))
    save(place, "plan/best", "auxbn")
    settings = ReportSettings("best", ["reports/plan/best"], "reports/plan")
    report(settings, campaign="robustnorm campaign --config campaign-cpu")
    text = (place / "reports/plan/best/report.html").read_text()
    assert (content["title"] in text) == shown
    assert (place / "reports/plan/best/figures/gradients-1.svg").exists() == shown

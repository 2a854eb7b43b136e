"""The report, read as a browser and as a reader would."""

import html
import json
import os
import re
import shutil
import subprocess

import pytest
from page_reader import Page, plain
from record_factory import make_full_record, make_record, serving_record

from robustnorm.evaluation.checks import CHECKS
from robustnorm.reporting.comparisons import paired_tests
from robustnorm.reporting.model_records import group
from robustnorm.reporting.page import render_page, write_page
from robustnorm.reporting.render import layout
from robustnorm.reporting.tables import tables

FIGURES = ("accuracy-over-epsilon", "test-losses", "training", "classes", "gradients-1")
GRADIENTS = {
    "schema": 1,
    "title": "Gradients of the branches",
    "kind": "branches",
    "models": ["AuxBN", "SaAuxBN"],
    "stages": ["stem", "stage 1"],
    "rows": [
        {
            "model": model,
            "run": model,
            "branch": None,
            "stage": stage,
            "std_of_norms": 0.25,
            "mean_norm": 2.0,
            "mean_cosine": -0.125,
            "std_interval": None,
            "cosine_interval": None,
        }
        for model in ("AuxBN", "SaAuxBN")
        for stage in ("stem", "stage 1")
    ],
    "setting": "n = 64",
}
EVIL = '"><script>alert(1)</script>$\\x_{'


@pytest.fixture(scope="module")
def records():
    return [
        make_full_record("bn", sa=170),
        make_full_record("modenorm", sa=172, ra=83),
        make_full_record("auxbn", sa=180),
        make_full_record("saauxbn", sa=181, ra=99),
    ]


@pytest.fixture(scope="module")
def rendered(records):
    return render_page(records, gradients=[GRADIENTS], options=" CONFIG=configs/x.yaml")


@pytest.fixture(scope="module")
def page(rendered):
    return Page(rendered[0])


def test_page_is_whole_small_and_in_sections(rendered, page):
    assert rendered[0].startswith("<!doctype html>")
    assert len(rendered[0].encode()) < 2_000_000
    assert page.names.count("h1") == 1
    assert page.names.count("h2") == page.names.count("section") == 12
    assert page.names.count("table") == page.names.count("caption")
    assert page.values("class").count("missing") == 1  # serving rules


def test_page_loads_nothing(rendered, page):
    assert "script" not in page.names
    assert "link" not in page.names
    for key in ("src", "href"):
        assert all(value.startswith(("#", "data:image/png;base64,")) for value in page.values(key))
    assert not re.search(r"(?i)https?:|@import|url\((?!#)", rendered[0])


def test_ids_are_unique_and_every_reference_finds_one(rendered, page):
    ids = page.values("id")
    assert len(ids) == len(set(ids))
    used = {value[1:] for value in page.values("href")} | set(
        re.findall(r"url\(#(.*?)\)", rendered[0])
    )
    assert used <= set(ids)
    assert any(name.startswith("training-") for name in used)  # figures have clip paths


def test_figures_are_described_and_come_as_files(rendered, page):
    _, files = rendered
    assert set(files) == {f"{name}.{suffix}" for name in FIGURES for suffix in ("svg", "png")}
    assert page.names.count("svg") == page.names.count("figcaption") == len(FIGURES)
    assert page.values("role").count("img") == len(FIGURES)
    assert all(
        "BN" in label or "Gradients" in label
        for t, k, label in page.attributes
        if k == "aria-label" and t == "svg"
    )
    assert all(value for value in page.values("alt"))


def test_figures_follow_light_and_dark(rendered):
    svgs = re.findall(r"<svg.*?</svg>", rendered[0], re.DOTALL)
    assert not any(re.search(r"(?:fill|stroke): #", svg) for svg in svgs)
    assert {"var(--ink)", "var(--model-2)"} <= set(re.findall(r"var\(.*?\)", svgs[0]))


@pytest.mark.parametrize("name", ["table3", "table4"])
def test_numbers_are_those_of_the_tables(records, page, name):
    (table,) = [table for table in tables(records) if table.name == name]
    assert plain(page.tables[table.title]) == [list(table.columns), *layout(table)[0]]


def test_paired_tests_are_shown_under_their_evaluation(records, page):
    table = paired_tests(group(records))
    shown = [row for row in plain(page.tables[table.title])[1:] if len(row) > 2]
    assert [row[-8:] for row in shown] == [row[1:] for row in layout(table)[0]]


def test_branch_matrix_holds_the_matrix_table(records, page):
    (matrix,) = [table for table in tables(records) if table.name == "branch-matrix"]
    for model in ("BN", "AuxBN"):
        shown = page.tables[model]
        found = {
            (row[0].removeprefix("attack on "), scoring): cell
            for row in shown[1:]
            for scoring, cell in zip(shown[0][1:], row[1:], strict=True)
        }
        assert found == {
            (attacked, scoring): accuracy + interval
            for name, attacked, scoring, accuracy, interval, _ in layout(matrix)[0]
            if name == model
        }


def test_reading_names_the_best_and_what_it_cannot_be_told_from(page):
    # 99 images of SaAuxBN and 83 of ModeNorm: 16 to 0, p = 2^-15, of BN and AuxBN 19 to 0.
    assert (
        "SaAuxBN (adv) has the highest robust accuracy under PGD-20, 49.50 % [42.65, 56.37]; its "
        "lead over every other model exceeds chance." in page.text
    )


def test_checks_show_verdicts_and_figures(page):
    verdicts = page.tables["Verdict of each check, by model and branch or serving rule"]
    assert verdicts[2] == ["FGSM"] + ["✓ reliable"] * 6
    assert verdicts[3] == ["Square"] + ["! warn"] * 6
    assert verdicts[4] == ["worst verdict"] + ["! warn"] * 6
    assert CHECKS["FGSM"] in page.text
    assert "6 verdicts are reliable, 6 warn, 0 unreliable:" in page.text
    assert "AuxBN, adv: Square, 0.5 % of images fall to Square only (n = 200)" in " ".join(
        page.text.split()
    )


@pytest.fixture(scope="module")
def sparse():
    return Page(render_page([make_record("auxbn")], options=" CONFIG=x.yaml")[0])


def test_one_record_without_extras_gives_a_page_that_says_what_to_run(sparse):
    missing = sparse.values("class").count("missing")
    assert missing == 7  # deployment, checks, radius, test loss, training, images, gradients
    for command in (
        "make eval CONFIG=x.yaml CHECKS=full",
        "make eval CONFIG=x.yaml ARGS='--serving true'",
        "make train NORM=auxbn CONFIG=x.yaml ARGS='--test_curve 1000'",
        "robustnorm diagnose",
    ):
        assert command in sparse.text
    assert "The checks were not run" in sparse.text


def test_page_of_a_campaign_names_its_command_and_what_to_set():
    text, _ = render_page([make_record("auxbn")], campaign="robustnorm campaign --config {x}.yaml")
    shown = " ".join(Page(text).text.split())
    assert "make " not in shown
    run = "in the plan and run robustnorm campaign --config {x}.yaml"
    for setting in ("serving: true", "checks: full", "test_curve: 1000", "examples: 8"):
        assert f"set {setting} {run}" in shown
    train = "robustnorm campaign --config {x}.yaml, with modenorm among the norms of its plan"
    assert f"ModeNorm is not trained yet: {train}" in shown
    assert "robustnorm diagnose RUN RUN" in shown


def test_settings_of_the_evaluation_are_those_of_the_protocol():
    evaluation = {"test_limit": None, "eval_precision": "fp32", "examples": 8, "test_curve": 500}
    config = make_record().config | evaluation
    text, _ = render_page([make_record("auxbn", config=config)])
    names = {*re.findall(r"<dt>(\w+)</dt>", text)}
    assert "test_curve" in names  # of training
    assert not {"test_limit", "eval_precision", "examples"} & names


@pytest.fixture(scope="module")
def hostile():
    """Names of a norm, classes, data, config, device and version that try to leave their place."""
    records = [make_full_record("bn"), make_full_record(EVIL, name=EVIL, device=EVIL)]
    for record in records:
        record.dataset.update(name=EVIL, classes=[EVIL, "b"])
        record.versions[EVIL] = EVIL
        record.config["network"] = EVIL
    gradients = GRADIENTS | {"models": ["AuxBN", EVIL], "title": EVIL, "setting": EVIL}
    return render_page(records, gradients=[gradients])


def test_names_are_escaped(hostile):
    page = Page(hostile[0])
    assert "script" not in page.names
    assert not any(key.startswith("on") for _, key, _ in page.attributes)
    assert EVIL in page.text
    assert html.escape(EVIL) in hostile[0].replace("&#34;", "&quot;")


def test_figures_keep_names_as_they_are(hostile):
    svg = hostile[1]["classes.svg"].decode()
    assert "<script" not in svg
    assert EVIL in html.unescape(svg)


def test_deployment_says_what_it_means():
    text, _ = render_page([serving_record()])
    deployment = tables([serving_record()])[-1]
    page = Page(text)
    assert plain(page.tables[deployment.title])[1:] == layout(deployment)[0]
    assert (
        "the most robust choice is AuxBN, always adv: deployed RA 39.00 % at SA 85.00 %. The "
        "highest SA is 95.00 %, with AuxBN, always clean, whose deployed RA is 9.00 %." in page.text
    )


def test_same_records_give_the_same_files_and_old_figures_go(records, rendered, tmp_path):
    old = tmp_path / "figures" / "gradients-9.svg"
    old.parent.mkdir()
    old.write_text("<svg/>")
    paths = write_page(records, tmp_path, gradients=[GRADIENTS], options=" CONFIG=configs/x.yaml")
    text, files = rendered
    assert {path.relative_to(tmp_path).as_posix(): path.read_bytes() for path in paths} == {
        "report.html": text.encode()
    } | {f"figures/{name}": data for name, data in files.items()}
    assert not old.exists()


MEASURE = """<script>
addEventListener("load", () => parent.postMessage({
  scroll: document.documentElement.scrollWidth,
  inner: innerWidth,
  images: [...document.images].every(image => image.naturalWidth > 0),
  svgs: [...document.querySelectorAll("svg")].map(svg => svg.getBoundingClientRect().height),
  boxes: [...document.querySelectorAll(".scroll")].filter(
    box => box.scrollWidth > box.clientWidth).length,
}, "*"));
</script>"""
FRAME = """<title>waiting</title>
<script>
addEventListener("message", event => { document.title = JSON.stringify(event.data) })
</script>
<iframe src="page.html" width="360" height="800" style="border: 0"></iframe>"""


@pytest.mark.slow
def test_page_fits_a_phone_in_a_browser(rendered, tmp_path):
    browser = next(
        filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
    )
    if browser is None:
        assert os.environ.get("CI") != "true", "CI needs chromium or google-chrome on PATH"
        pytest.skip("no chromium or google-chrome on PATH")
    measuring = rendered[0].replace("</body>", f"{MEASURE}</body>")
    # The page itself forbids scripts, the one that measures it as well.
    measuring = re.sub("<meta http-equiv=.Content-Security-Policy.*", "", measuring, count=1)
    (tmp_path / "page.html").write_text(measuring)
    (tmp_path / "frame.html").write_text(FRAME)
    done = subprocess.run(
        [
            browser,
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            f"--user-data-dir={tmp_path / 'profile'}",
            "--virtual-time-budget=10000",
            "--dump-dom",
            (tmp_path / "frame.html").as_uri(),
        ],
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    assert "Uncaught" not in done.stderr
    title = re.search(r"<title>(.*?)</title>", done.stdout)[1]
    measured = json.loads(html.unescape(title))
    assert measured["inner"] == 360
    assert measured["scroll"] <= 360  # the body never scrolls sideways
    assert measured["images"]
    assert len(measured["svgs"]) == len(FIGURES)
    assert min(measured["svgs"]) > 100
    assert measured["boxes"] >= 5  # wide tables and figures do, in their own boxes

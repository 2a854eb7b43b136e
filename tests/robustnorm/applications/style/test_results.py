"""Rows, differences, claims and summary from made-up records."""

import json

import pytest
from scipy.stats import t as student_t
from scipy.stats import ttest_rel

from robustnorm.applications.style.report import write_report
from robustnorm.applications.style.results import paired_differences, read_records
from robustnorm.applications.style.tables import MEASURES, claim_verdict, summary, tables
from robustnorm.evaluation.statistics import holm
from robustnorm.system.errors import RefusedFileError, UsageError

NOISE = [0.01, -0.02, 0.03, 0.0, -0.01]


def made_record(row, seed, content, **measures):
    found = {
        "content": content + NOISE[seed],
        "fixed": 1.3,
        "relative": 0.8,
        "structure": 1.2 + NOISE[seed] / 2,
        "style": 1.5 + NOISE[-1 - seed],
        "gamma": 1.0,
    } | measures
    pictures = {"name": "made", "pictures": 3, "sha256": "1"}
    parts = ("content", "style", "validation_content", "validation_style")
    return {
        "format": 1,
        "row": row,
        "seed": seed,
        "config": {
            "row": row, "seed": seed, "validation_pairs": 4, "recolor": True, "batch_size": 2,
            "crop": 8, "content_weight": 1.0, "style_weight": 10.0, "variance": "population",
            "log_every": 1,
        },
        "dataset": dict.fromkeys(parts, pictures),
        "encoder": {"name": "VGG-19", "layer": "relu4_1", "sha256": "2"},
        "step": 2,
        "curve": [[1, 3.0, 9.0], [2, 2.0, 8.0]],
        "validation": [{"step": 1, **found}, {"step": 2, **found}],
        "seconds": 1.5,
        "device": "CPU",
        "versions": {"torch": "2"},
    }  # fmt: skip


def write(folder, records):
    folder.mkdir(parents=True, exist_ok=True)
    for record in records:
        path = folder / f"{record['row']}-seed{record['seed']}.json"
        path.write_text(json.dumps(record))
    return folder


@pytest.fixture
def folder(tmp_path):
    """SaAdaIN far below AdaIN with a smaller gamma; detached, it is AdaIN's equal."""
    records = [
        made
        for seed in range(5)
        for made in (
            made_record("adain", seed, 1.6),
            made_record("saadain", seed, 1.1 + NOISE[-1 - seed] / 3, gamma=0.6),
            made_record("saadain-detached", seed, 1.6 + NOISE[-1 - seed] / 2),
            made_record("ilm", seed, 1.3 + NOISE[-1 - seed] / 3, gamma=0.9),
        )
    ]
    return write(tmp_path / "records", records)


def find(found, measure, row, other):
    (one,) = (d for d in found if (d.measure, d.row.row, d.other.row) == (measure, row, other))
    return one


def test_rows_stand_in_the_order_of_the_settings(folder):
    rows = read_records(folder)
    assert [row.row for row in rows] == ["adain", "ilm", "saadain", "saadain-detached"]
    assert rows[0].seeds == [0, 1, 2, 3, 4]
    values = [1.6 + noise for noise in NOISE]
    center = sum(values) / 5
    assert rows[0].mean("content") == pytest.approx(center)
    deviation = (sum((v - center) ** 2 for v in values) / 4) ** 0.5
    half = student_t.ppf(0.975, 4) * deviation / 5**0.5
    assert rows[0].interval("content") == pytest.approx((center - half, center + half))


def test_differences_are_paired_and_adjusted_together(folder):
    found = paired_differences(read_records(folder), list(MEASURES))
    one = find(found, "content", "saadain", "adain")
    adain = [1.6 + noise for noise in NOISE]
    saadain = [1.1 + noise + NOISE[-1 - i] / 3 for i, noise in enumerate(NOISE)]
    assert one.values == pytest.approx([b - a for a, b in zip(adain, saadain, strict=True)])
    assert one.p == pytest.approx(ttest_rel(saadain, adain).pvalue)
    tested = [d for d in found if d.p is not None]
    assert [d.adjusted for d in tested] == holm([d.p for d in tested])
    assert one.sign == -1
    assert find(found, "content", "saadain-detached", "adain").sign == 0


def test_equal_values_are_not_tested(folder):
    fixed = find(paired_differences(read_records(folder), ["fixed"]), "fixed", "saadain", "adain")
    assert (fixed.p, fixed.adjusted, fixed.sign) == (None, None, 0)


def test_lower_loss_without_nearer_structure_is_an_artefact(folder):
    rows = read_records(folder)
    claims = next(table for table in tables(rows) if table.name == "claims")
    verdicts = {row[0]: row[1] for row in claims.rows}
    assert verdicts["SaAdaIN has a lower content loss than AdaIN"] == "artefact"
    assert verdicts["SaAdaIN has a lower style loss than AdaIN"] == "not distinguishable"
    words = summary(rows)
    assert (
        "here the lower content loss measures how far the target has moved, not how much of the"
        in words
    )
    assert "its mean γ went from 1 to 0.60" in words
    assert "is lower than AdaIN's, 1.602" in words
    assert "ends at 1.30" in words  # ILM+IN


@pytest.mark.parametrize(
    ("content", "structure", "verdict"),
    [(1.1, 0.9, "holds"), (1.1, 1.5, "artefact"), (2.1, 0.9, "contradicted")],
)
def test_claim_is_judged_by_loss_and_structure(tmp_path, content, structure, verdict):
    records = [
        made
        for seed in range(5)
        for made in (
            made_record("adain", seed, 1.6),
            made_record(
                "saadain",
                seed,
                content + NOISE[-1 - seed] / 3,
                structure=structure + NOISE[-1 - seed] / 3,
            ),
        )
    ]
    found = paired_differences(read_records(write(tmp_path / "records", records)), list(MEASURES))
    loss, other = (find(found, m, "saadain", "adain") for m in ("content", "structure"))
    assert claim_verdict(loss, other)[0] == verdict


def test_one_seed_has_no_interval_and_no_verdict(tmp_path):
    records = [made_record("adain", 0, 1.6), made_record("saadain", 0, 1.1)]
    rows = read_records(write(tmp_path / "records", records))
    assert rows[0].interval("content") is None
    assert all(difference.sign == 0 for difference in paired_differences(rows, list(MEASURES)))
    assert "not distinguishable" in summary(rows)


def test_rows_without_a_common_seed_are_shown_but_not_compared(tmp_path):
    records = [made_record("adain", 0, 1.6), made_record("saadain", 1, 1.1)]
    write(tmp_path / "records", [*records, made_record("ilm", 1, 1.3)])
    rows = read_records(tmp_path / "records")
    compared = {(d.row.row, d.other.row) for d in paired_differences(rows, list(MEASURES))}
    assert compared == {("saadain", "ilm")}
    made = write_report(tmp_path, [], seed=0, command="robustnorm figure7")
    claims = next(table for table in made if table.name == "claims")
    assert [row[0].split()[-1] for row in claims.rows] == ["ILM+IN"] * 2
    assert "SaAdaIN's reported content loss" not in summary(rows)


@pytest.mark.parametrize("part", ["config", "dataset", "encoder"])
def test_records_of_other_experiments_are_refused(tmp_path, part):
    other = made_record("saadain", 0, 1.1)
    other[part] = other[part] | {"crop": 16}
    folder = write(tmp_path / "records", [made_record("adain", 0, 1.6), other])
    with pytest.raises(UsageError, match=f"differ in {part}; runs to compare"):
        read_records(folder)


def test_folder_without_records_is_refused(tmp_path):
    with pytest.raises(UsageError, match="run robustnorm figure7 first"):
        read_records(tmp_path)


@pytest.mark.parametrize("text", ["{", "[]", '{"row": "adain"}'])
def test_file_that_is_no_record_is_refused(tmp_path, text):
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(RefusedFileError, match=r"a\.json is not a record of robustnorm figure7"):
        read_records(tmp_path)


def test_report_of_one_row_leaves_out_what_compares(tmp_path):
    write(tmp_path / "records", [made_record("adain", 0, 1.6)])
    made = write_report(tmp_path, [], seed=0, command="robustnorm figure7")
    assert [table.name for table in made] == ["figure7", "measured"]
    assert "Paired tests" not in (tmp_path / "report.html").read_text()


def test_report_has_the_same_bytes_every_time(folder):
    contents = []
    for _ in range(2):
        write_report(folder.parent, [], seed=0, command="robustnorm figure7")
        files = [path for path in folder.parent.rglob("*") if path.is_file()]
        contents.append({path.name: path.read_bytes() for path in files})
    assert contents[0] == contents[1]
    assert {"tables.md", "report.html", "figure7-training.png"} <= contents[0].keys()
    page = contents[0]["report.html"].decode()
    assert "What the content loss measures" in page
    assert "http" not in page.replace("http://www.w3.org", "").replace("http-equiv", "")
    assert summary(read_records(folder)) in (folder.parent / "tables.md").read_text()

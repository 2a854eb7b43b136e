"""Tables as CSV, Markdown, LaTeX and text."""

import csv
import io

import pytest
from record_factory import N, make_record, serving_record

from robustnorm.evaluation.statistics import wilson
from robustnorm.reporting.render import Table, layout, to_csv, to_latex, to_markdown, to_text
from robustnorm.reporting.tables import tables, write_tables


def test_csv_reads_back():
    _, table4, _ = tables([make_record("saauxbn", sa=180, ra=80)])
    rows = list(csv.DictReader(io.StringIO(to_csv(table4))))
    (row,) = [r for r in rows if r["Evaluation"] == "RA, PGD-20" and r["Model"] == "SaAuxBN (adv)"]
    low, high = wilson(80, N)
    assert float(row["Ours %"]) == 40.0
    assert float(row["95 % interval, low"]) == pytest.approx(100 * low, abs=0.005)
    assert float(row["95 % interval, high"]) == pytest.approx(100 * high, abs=0.005)
    assert rows[0]["Ours %"] == ""


def test_markdown_reads_back():
    table3, _, _ = tables([make_record("bn", sa=150)])
    lines = [line for line in to_markdown(table3).splitlines() if line.startswith("|")]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    assert cells[0] == list(table3.columns)
    assert cells[2][:3] == ["SA", "BN", "75.00"]
    assert len(lines) == 2 + 4


def test_latex_escapes_and_uses_booktabs():
    text = to_latex(tables([make_record("bn")])[0])
    assert "\\toprule" in text
    assert "a\\_b" in text
    assert "95 \\% interval" in text
    assert " %" not in text.replace("\\%", "")


def test_text_says_a_shared_note_once():
    text = to_text(tables([make_record("bn")]))
    assert text.count("Attack: PGD, Linf") == 1
    notes = [line.strip() for line in text.splitlines() if "  " not in line.strip()]
    assert 90 < max(map(len, notes)) <= 100


def test_write_tables_writes_each_format(tmp_path):
    paths = write_tables([make_record("bn")], tmp_path / "reports")
    assert sorted(path.name for path in paths) == [
        "branch-matrix.csv",
        "table3.csv",
        "table4.csv",
        "tables.md",
        "tables.tex",
    ]
    assert all(path.read_text() for path in paths)


def test_write_tables_removes_those_of_an_earlier_evaluation_and_nothing_else(tmp_path):
    write_tables([serving_record()], tmp_path)
    for name in ("mine.csv", "transfer.csv", "swap.csv"):
        (tmp_path / name).write_text("1,2")
    before = {path.name for path in tmp_path.iterdir()}
    assert "deployment.csv" in before
    write_tables([make_record("auxbn")], tmp_path)
    assert before - {path.name for path in tmp_path.iterdir()} == {"deployment.csv", "transfer.csv"}


def test_table_without_rows_has_a_layout_for_every_column():
    table = Table("t", "T", ("a", "b"), [], [])
    assert layout(table) == ([], [True, True])
    assert "a" in to_text([table])

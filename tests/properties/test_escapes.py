"""Hostile text in every field of a record, and what the outputs make of it."""

import csv
import io
import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from robustnorm.applications.gan.gradient_tables import gradient_tables
from robustnorm.applications.gan.record import GanRecord
from robustnorm.applications.gan.tables import group_runs, setting_note
from robustnorm.applications.gan.tables import summary as gan_summary
from robustnorm.applications.gan.tables import tables as gan_tables
from robustnorm.applications.nas.comparison import group_by_norm
from robustnorm.applications.nas.record import SearchRecord
from robustnorm.applications.nas.table2 import summary as search_summary
from robustnorm.applications.nas.table2 import tables as search_tables
from robustnorm.applications.style.report import markdown, write_report
from robustnorm.applications.style.results import read_records
from robustnorm.applications.style.tables import summary as style_summary
from robustnorm.applications.style.tables import tables as style_tables
from robustnorm.records.record import Record, RecordError
from robustnorm.reporting.card import model_card
from robustnorm.reporting.gradients import gradient_table, read_gradients
from robustnorm.reporting.page import write_page
from robustnorm.reporting.plans import plan_page
from robustnorm.reporting.readme import show_results
from robustnorm.reporting.render import to_csv, to_latex, to_markdown, to_text
from robustnorm.reporting.tables import tables
from robustnorm.system.errors import UserError
from robustnorm.system.escaping import for_terminal
from robustnorm.system.sealed import seal, unseal

# The first has no slash, which names refuse.
PAYLOADS = {
    "csv and markdown": "=x | y ![i](javascript:alert) <img src=x onerror=alert(1)>",
    "latex and html": "\\input{/etc/passwd} <script>alert(1)</script>",
}
REFUSED = {"terminal": "\x1b]0;owned\x07\x1b[2J", "direction": "safe\u202etxt.exe"}


def places(value, path=()):
    """Yields the path of each text in plain values, keys included."""
    if isinstance(value, dict):
        for key, entry in value.items():
            yield from places(entry, (*path, key))
    elif isinstance(value, list):
        for index, entry in enumerate(value[:2]):
            yield from places(entry, (*path, index))
    elif isinstance(value, str):
        yield path


def changed(content, path, text):
    copy = json.loads(json.dumps(content))
    place = copy
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = text
    return copy


def content():
    path = Path(__file__).parents[2] / "reports/digits/records/saauxbn-seed0-best.json"
    found, _ = unseal(json.loads(path.read_text()))
    return found | {"verdicts": found["verdicts"], "history": found["history"][:1]}


PLACES = [p for p in places(content()) if p[-1] not in ("correct", "labels", "image", "adv_image")]


def outputs(made, *pages):
    return {
        "text": for_terminal(to_text(made)),
        "markdown": "\n".join([*map(to_markdown, made), *pages]),
        "latex": "\n".join(map(to_latex, made)),
        "csv": "\n".join(map(to_csv, made)),
    }


def readme(record, folder):
    path = folder / "README.md"
    path.write_text("<!-- reports/x -->\n<!-- end -->\n")
    show_results(path, "x", [record])
    return path.read_text()


def of_record(path):
    record = Record.load(path)
    one_more = replace(record, seed=record.seed + 1)
    plan = plan_page("plan", {"best": [record, one_more], "last": [record]})
    return outputs(tables([record]), plan, readme(record, path.parent))


def of_table1(path):
    record = GanRecord.load(path)
    records = [record, replace(record, config=record.config | {"norm": "sabn"})]
    setting = setting_note(group_runs(records))
    return outputs([*gan_tables(records), *gradient_tables(records, setting)], gan_summary(records))


def of_table2(path):
    records = [SearchRecord.load(path)]
    return outputs(search_tables(records), search_summary(group_by_norm(records)))


def of_figure7(path):
    rows = read_records(path.parent)
    made = style_tables(rows)
    return outputs(made, markdown(style_summary(rows), made, "robustnorm figure7"))


def of_diagnose(path):
    return outputs([gradient_table(read_gradients(path))])


KINDS = {
    "digits/records/saauxbn-seed0-best.json": of_record,
    "table1/records/autogan-ccbn-seed0.json": of_table1,
    "table2/records/affine-seed0.json": of_table2,
    "figure7/records/adain-seed0.json": of_figure7,
    "cpu/gradients/branches-auxbn-seed2-saauxbn-seed2-best.json": of_diagnose,
}
REPORTS = Path(__file__).parents[2] / "reports"


def check(found):
    for text in found.values():
        assert not {"\x1b", "\x07", "\u202e"} & set(text)
    assert "<script" not in found["markdown"]
    assert "<img" not in found["markdown"]
    assert "](javascript" not in found["markdown"]
    assert "\\input{" not in found["latex"]
    cells = [cell for row in csv.reader(io.StringIO(found["csv"])) for cell in row]
    assert not [cell for cell in cells if cell.startswith("=")]


def test_there_are_many_places():
    assert len(PLACES) >= 60


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("payload", PAYLOADS)
def test_text_of_any_field_is_harmless_in_every_output(tmp_path, kind, payload):
    known, _ = unseal(json.loads((REPORTS / kind).read_text()))
    path = tmp_path / "records" / Path(kind).name
    path.parent.mkdir()
    shown = 0
    for place in places(known):
        path.write_text(json.dumps(seal(changed(known, place, PAYLOADS[payload]))))
        try:
            found = KINDS[kind](path)
        except UserError:
            continue  # refused: no number, base64 or name of a row
        check(found)
        shown += 1
    assert shown >= 5


@pytest.mark.parametrize("payload", PAYLOADS)
def test_name_of_a_plan_and_of_a_run_is_harmless(tmp_path, payload):
    text = PAYLOADS[payload]
    record = Record.load(REPORTS / "digits/records/saauxbn-seed0-best.json")
    check(outputs([], plan_page(text, {text: [record]})))
    content = {"network": text, "trained_norm": text, "branch": text, "classes": ["0"]}
    run = SimpleNamespace(
        dataset={"name": text, "channels": 1}, imported={"file": text}, config=None
    )
    check(outputs([], model_card(content | {"arguments": {"in_channels": 1}}, run, None)))


@pytest.mark.parametrize("payload", REFUSED)
def test_record_with_a_control_character_is_refused(payload):
    for path in PLACES:
        with pytest.raises(RecordError):
            Record.from_json(json.dumps(seal(changed(content(), path, REFUSED[payload]))))


@pytest.mark.parametrize("payload", REFUSED)
def test_terminal_obeys_no_text(payload):
    assert not {"\x1b", "\x07", "\u202e"} & set(for_terminal(REFUSED[payload]))


@pytest.mark.slow
@pytest.mark.parametrize("payload", PAYLOADS)
def test_page_takes_hostile_names_and_runs_nothing(tmp_path, payload):
    text = PAYLOADS[payload]
    known = content()
    known |= {"device": text, "versions": known["versions"] | {"torch": text}}
    known["dataset"] |= {"name": text, "classes": [text] * len(known["dataset"]["classes"])}
    write_page([Record.from_json(json.dumps(seal(known)))], tmp_path)
    page = (tmp_path / "report.html").read_text()
    assert "Content-Security-Policy\" content=\"default-src 'none'" in page
    assert "<script" not in page
    assert "<img src=x" not in page


@pytest.mark.slow
@pytest.mark.parametrize("payload", PAYLOADS)
def test_page_of_other_tables_takes_hostile_names_and_runs_nothing(tmp_path, payload):
    text = PAYLOADS[payload]
    known, _ = unseal(json.loads((REPORTS / "figure7/records/adain-seed0.json").read_text()))
    known["encoder"] |= {"name": text, "layer": text}
    known["dataset"]["content"]["name"] = known["device"] = text
    (tmp_path / "records").mkdir()
    (tmp_path / "records" / "adain-seed0.json").write_text(json.dumps(seal(known)))
    write_report(tmp_path, [], seed=0, command=text)
    page = (tmp_path / "report.html").read_text()
    assert "Content-Security-Policy\" content=\"default-src 'none'" in page
    assert "<script" not in page
    assert "<img src=x" not in page
    check({"markdown": (tmp_path / "tables.md").read_text(), "latex": "", "csv": ""})

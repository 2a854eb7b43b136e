"""Hostile text in every field of a record, and what the outputs make of it."""

import csv
import io
import json
from pathlib import Path

import pytest

from robustnorm.records.record import Record, RecordError
from robustnorm.reporting.page import write_page
from robustnorm.reporting.plans import plan_page
from robustnorm.reporting.render import to_csv, to_latex, to_markdown, to_text
from robustnorm.reporting.tables import tables
from robustnorm.system.escaping import for_terminal
from robustnorm.system.sealed import seal, unseal

PAYLOADS = {
    "html": "<script>alert(1)</script>",
    "markdown": "x | y ![i](javascript:alert) <img src=x onerror=alert(1)>",
    "latex": "\\input{/etc/passwd}",
    "csv": "=cmd|' /C calc'!A0",
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


def outputs(record):
    made = tables([record])
    return {
        "text": for_terminal(to_text(made)),
        "markdown": "\n".join([*map(to_markdown, made), plan_page("plan", {"best": [record]})]),
        "latex": "\n".join(map(to_latex, made)),
        "csv": "\n".join(map(to_csv, made)),
    }


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


@pytest.mark.parametrize("payload", PAYLOADS)
def test_text_of_any_field_is_harmless_in_every_output(payload):
    known, shown = content(), 0
    for path in PLACES:
        try:
            record = Record.from_json(json.dumps(seal(changed(known, path, PAYLOADS[payload]))))
            found = outputs(record)
        except (RecordError, KeyError, ValueError):
            continue  # refused, or no number where one belongs
        check(found)
        shown += 1
    assert shown > 20


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

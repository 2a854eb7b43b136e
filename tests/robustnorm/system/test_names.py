"""A name that becomes a path is refused wherever it is given, or can be written and read again."""

import json
import re
from pathlib import Path

import pytest
from record_factory import make_record

from robustnorm.records.record import Record, RecordError
from robustnorm.runs.checkpoint import find_checkpoint
from robustnorm.settings.campaign import CampaignSettings, PlanSettings
from robustnorm.settings.config import Config
from robustnorm.settings.diagnose import DiagnoseSettings
from robustnorm.settings.export import ExportSettings
from robustnorm.settings.gan import GanSettings
from robustnorm.settings.groups import BranchAttack
from robustnorm.settings.import_weights import ImportSettings
from robustnorm.settings.nas import SearchSettings, Table2Settings
from robustnorm.settings.results import ReportSettings, StudySettings
from robustnorm.settings.style import StyleSettings
from robustnorm.system.names import check_name
from robustnorm.system.sealed import seal, unseal

REFUSED = {
    "": "it is empty",
    "x/../y": "it contains '..'",
    "..": "it contains '..'",
    ".": "begins or ends with a dot",
    "/x": "it is empty, or has an empty component",
    "x/": "it is empty, or has an empty component",
    "x//y": "it is empty, or has an empty component",
    "..\\x": "it has a slash",
    "x" * 300: "it has 300 bytes, more than 100",
    "ä" * 51: "it has 102 bytes, more than 100",
    "a\0b": "a character that cannot be printed",
    "a\nb": "a character that cannot be printed",
    "a\u202eb": "a character that cannot be printed",
    "a\ud800b": "a character that cannot be printed",
    ".git": "begins or ends with a dot",
    "x.": "begins or ends with a dot or space",
    " x": "begins or ends with a dot or space",
    "NUL": "'NUL' is reserved",
    "com1.txt": "'com1.txt' is reserved",
    "x/records": "'records' is reserved",
    "jobs": "'jobs' is reserved",
}
ALLOWED = ["x", "ResNet-18 (wide)", "v1.2", "ä" * 50, "x" * 100, "nullary", "recordings"]


@pytest.mark.parametrize("name", REFUSED)
def test_name_is_refused_with_the_reason(name):
    with pytest.raises(ValueError, match=re.escape(REFUSED[name])) as caught:
        check_name("name", name, nested=True)
    assert len(str(caught.value)) < 200


@pytest.mark.parametrize("name", ALLOWED)
def test_name_that_is_allowed_can_be_a_folder(name, tmp_path):
    check_name("name", name)
    check_name("name", f"{name}/{name}", nested=True)
    (tmp_path / name / f"{name}-plain-seed{2**64 - 1}-epoch123456789.safetensors").parent.mkdir()
    Config(name=name)


@pytest.mark.parametrize("value", [None, 3, ["x"]])
def test_what_is_no_text_is_no_name(value):
    with pytest.raises(ValueError, match="must be a name for a folder or file, got"):
        check_name("name", value)


def record_with(**changes):
    content, _ = unseal(json.loads(make_record().to_json()))
    for place, value in changes.items():
        *parts, last = place.split("__")
        inside = content
        for part in parts:
            inside = inside[part]
        inside[last] = value
    return Record.from_json(json.dumps(seal(content)))


ATTACK = BranchAttack("linf", 0.1, 0.1)
PLACES = {
    "config": lambda name: Config(name=name),
    "report": lambda name: ReportSettings(name=name),
    "study": lambda name: StudySettings(name=name),
    "import": lambda name: ImportSettings(file=["x"], name=name),
    "table1": lambda name: GanSettings(name=name),
    "search": lambda name: SearchSettings(name=name),
    "table2": lambda name: Table2Settings(name=name),
    "figure7": lambda name: StyleSettings(name=name),
    "norm": lambda name: Config(norm=name),
    "branch": lambda name: Config(branches={name: ATTACK}),
    "tag to evaluate": lambda name: Config(checkpoint=name),
    "tag to export": lambda name: ExportSettings(run="x", checkpoint=name),
    "tag to diagnose": lambda name: DiagnoseSettings(runs=["x"], checkpoint=name),
    "tag to load": lambda name: find_checkpoint(Path(), name),
    "plan": lambda name: CampaignSettings(plans={name: PlanSettings("digits")}),
    "evaluation": lambda name: CampaignSettings(
        plans={"x": PlanSettings("digits", evaluations={name: {}})}
    ),
    "record": lambda name: record_with(name=name),
    "record's norm": lambda name: record_with(norm=name),
    "record's tag": lambda name: record_with(checkpoint__tag=name),
    "record's images": lambda name: record_with(images={"folder": name, "files": {}}),
    "record's image": lambda name: record_with(images={"folder": "x", "files": {name: ""}}),
    "record's source": lambda name: record_with(sources={name: ""}),
}


@pytest.mark.parametrize("place", PLACES)
def test_every_place_refuses_every_such_name(place):
    for name in REFUSED:
        with pytest.raises((ValueError, RecordError)):
            PLACES[place](name)


@pytest.mark.parametrize("tag", ["epoch", "epoch²", "epoch٣", "epoch01", "epoch" + "9" * 300, "x"])
def test_tag_that_no_checkpoint_has_is_refused(tag):
    for kind in ("tag to evaluate", "tag to export", "tag to diagnose"):
        with pytest.raises(ValueError, match=r"checkpoint must be best, last, or epoch and a numb"):
            PLACES[kind](tag)

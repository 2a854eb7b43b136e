import sys
from dataclasses import replace

import numpy as np
import pytest

from robustnorm.applications.nas.darts import run_search
from robustnorm.applications.nas.record import find_record, record_path
from robustnorm.applications.nas.table2 import tables
from robustnorm.applications.nas.work import SearchJob, search_all, write_report
from robustnorm.data import load_dataset
from robustnorm.settings.nas import Table2Settings
from robustnorm.system.errors import RefusedFileError, UsageError
from robustnorm.system.extras import check_report
from robustnorm.system.stopping import Stopped
from robustnorm.work.sweep import SweepError


@pytest.fixture
def table2(settings):
    return Table2Settings(**settings.to_dict(), norms=("bn", "sabn"), seeds=(0, 1))


def stop_after(steps):
    asked = iter(range(steps))
    return lambda _seconds: next(asked, None) is None


def test_searches_of_a_seed_come_before_the_next_seed(table2):
    runs = [search.run for search in table2.searches()]
    assert runs == ["bn-seed0", "sabn-seed0", "bn-seed1", "sabn-seed1"]


def test_searches_that_were_stopped_go_on_to_the_same_records(table2, tmp_path):
    whole = search_all(replace(table2, output=str(tmp_path / "a"), reports=str(tmp_path / "ra")))
    with pytest.raises(Stopped):
        search_all(table2, should_stop=stop_after(10))  # within the second search
    assert [SearchJob(s).done() for s in table2.searches()] == [True, False, False, False]
    found = search_all(table2)
    assert [record.history for record in found] == [record.history for record in whole]
    assert [record.search.run for record in found] == [s.run for s in table2.searches()]


def test_failed_searches_are_told_after_all_were_tried(table2):
    with pytest.raises(SweepError, match=r"4 jobs failed; (?s:.*)search tiny bn-seed0") as raised:
        search_all(replace(table2, learning_rate=1e38))
    assert "no longer finite" in str(raised.value)


def test_damaged_record_is_told_before_any_search(table2):
    *_, last = table2.searches()
    record_path(last).parent.mkdir(parents=True)
    record_path(last).write_text("{}")
    with pytest.raises(RefusedFileError, match="is not the record of a search"):
        search_all(table2)
    assert not record_path(table2.searches()[0]).exists()


def test_search_of_other_settings_is_told(table2):
    run_search(table2.searches()[0])
    with pytest.raises(Exception, match="other settings"):
        search_all(replace(table2, channels=3))


def test_report_has_tables_figure_and_page(table2, tmp_path):
    records = search_all(table2)
    folder = tmp_path / "report"
    text = write_report(records, folder, "robustnorm table2 <x>")
    names = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert names == {
        *("tables.md", "tables.tex", "table2.csv", "expected.csv", "paired.csv", "searches.csv"),
        *("report.html", "figures/search.svg", "figures/search.png"),
    }
    assert text.startswith("DARTS-SaBN minus DARTS:")
    page = (folder / "report.html").read_text()
    for said in ("random cell", "scikit-learn digits", "robustnorm table2 &lt;x&gt;", "<svg"):
        assert said in page
    before = {name: (folder / name).read_bytes() for name in names}
    write_report(records, folder, "robustnorm table2 <x>")
    assert before == {name: (folder / name).read_bytes() for name in names}


def test_tables_follow_from_the_records_on_disk(table2):
    records = search_all(table2)
    assert tables([find_record(search) for search in table2.searches()]) == tables(records)


def test_missing_packages_are_told_before_any_search(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match=r'pip install "robustnorm\[report\]"'):
        check_report()


def test_records_of_other_data_are_told_before_any_search(table2, tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (40, 8, 8), dtype=np.uint8)
    labels = np.arange(40) % 2
    path = str(tmp_path / "other.npz")
    np.savez(path, x_train=images, y_train=labels, x_test=images, y_test=labels)
    first, second, *_ = table2.searches()
    run_search(first)
    for search in (run_search, search_all):
        settings = first if search is run_search else table2
        with pytest.raises(UsageError, match="the record of bn-seed0 is of scikit-learn digits"):
            search(replace(settings, data=path))
    assert not record_path(second).exists()


def test_changed_data_under_the_same_path_are_told_before_any_search(table2, monkeypatch):
    first, second, *_ = table2.searches()
    run_search(first)
    other = replace(load_dataset("digits"), sha256="1" * 64)
    monkeypatch.setattr("robustnorm.applications.nas.darts.load_dataset", lambda *_, **__: other)
    with pytest.raises(UsageError, match="the record of bn-seed0 is of scikit-learn digits"):
        search_all(table2)
    assert not record_path(second).exists()

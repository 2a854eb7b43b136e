import pytest

from robustnorm.applications.nas.record import SearchRecord
from robustnorm.cli import main, parse
from robustnorm.settings.nas import SearchSettings, Table2Settings

TINY = [
    *("--channels=2", "--cells=1", "--batch_size=16", "--steps=4", "--stop_step=2"),
    *("--record_every=2", "--device=cpu"),
]


def test_search_prints_its_cell_and_keeps_a_record(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["search", "--norm=ccbn", "--seed=3", "--name=tiny", *TINY]) == 0
    assert "DARTS-CCBN" in capsys.readouterr().out
    record = SearchRecord.load(tmp_path / "reports/tiny/records/ccbn-seed3.json")
    assert record.history[-1].step == 2


def test_table2_prints_and_writes_its_tables(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    words = ["table2", "--norms=[bn,sabn]", "--seeds=[0,1]", *TINY]
    assert main(words) == 0
    shown = capsys.readouterr().out
    for said in ("Table 2", "random cell", "optimum", "Paired tests", "Every search"):
        assert said in shown
    assert (tmp_path / "reports/search/tables.md").exists()
    assert main(words) == 0  # nothing is left to search
    assert capsys.readouterr().out == shown


def test_table2_of_one_seed_has_a_page_without_tests(blank_figures, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["table2", "--norms=[bn,sabn]", "--seeds=[0]", *TINY]) == 0
    assert "Paired tests" not in capsys.readouterr().out
    page = (tmp_path / "reports/search/report.html").read_text()
    assert "Every search" in page
    assert "Paired tests" not in page


@pytest.mark.parametrize("config", ["nas-cpu", "nas-cifar100", "nas-imagenet16"])
def test_configs_keep_the_paper_s_product_of_rate_and_steps(config):
    _, settings, _ = parse(["table2", f"--config={config}"])
    assert isinstance(settings, Table2Settings)
    epochs = 82_950 / 27_335 if config == "nas-imagenet16" else 1
    product = settings.alpha_learning_rate * settings.stop_step
    assert product == pytest.approx(8 * epochs, rel=0.03)
    assert settings.stop_step / settings.steps == pytest.approx(35 / 50, abs=1e-3)


def test_settings_of_the_paper_are_the_defaults():
    _, settings, _ = parse(["search", "--config=nas-cifar100"])
    given = settings.to_dict()
    ignored = {"name", "data", "record_every"}
    assert {k: v for k, v in given.items() if k not in ignored} == {
        k: v for k, v in SearchSettings().to_dict().items() if k not in ignored
    }


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["search", "--norm=auxbn"], "norm"),
        (["search", "--paths=both"], "paths"),
        (["search", "--stop_step=40000"], "stop_step must be at most steps, 39050, got 40000"),
        (["search", "--cells=0"], "cells must be at least 1, got 0"),
        (["search", "--batch_size=1"], "batch_size must be at least 2, got 1"),
        (["search", "--padding=5000"], "padding must be 0 to 4096, or null, got 5000"),
        (["search", "--momentum=1"], "momentum must be in"),
        (["search", "--data=cifar"], "did you mean 'cifar10'"),
        (["table2", "--seeds=[]"], "seeds must be one or more"),
        (["table2", "--engine=submitit"], "workers must be at least 1"),
        (["search", "--image_size=5", *TINY], "image_size must divide the height"),
    ],
)
def test_unsound_settings_end_with_one_sentence(words, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(words) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert message in line

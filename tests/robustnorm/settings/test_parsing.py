import re
import subprocess
import sys
from pathlib import Path

import pytest

from robustnorm.settings.config import Config
from robustnorm.settings.export import ExportSettings
from robustnorm.settings.parsing import read_config, read_words
from robustnorm.settings.sweep import SweepSettings


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def test_words_win_over_the_config_file_wherever_they_stand():
    Path("a.yaml").write_text("epochs: 3\nwidth: 8\n")
    settings, path = read_words(Config, ["--epochs", "5", "--config", "a.yaml"])
    assert (settings.epochs, settings.width, settings.name, path) == (5, 8, "a", "a.yaml")


def test_later_config_file_wins_over_an_earlier_one():
    Path("a.yaml").write_text("epochs: 3\nwidth: 8\n")
    Path("b.yaml").write_text("epochs: 4\n")
    settings, path = read_words(Config, ["--config=a.yaml", "--config=b.yaml"])
    assert (settings.epochs, settings.width, path) == (4, 8, "b.yaml")


def test_option_is_written_with_dash_or_underscore_and_a_switch_may_stand_alone():
    words = ["--test-limit", "7", "--strict", "--serving", "false", "--epsilon", "1/8"]
    settings, _ = read_words(Config, words)
    assert (settings.test_limit, settings.strict, settings.serving) == (7, True, False)


def test_words_by_position_stand_between_options():
    settings, _ = read_words(SweepSettings, ["a", "--workers", "2", "b", "--seeds=1,2"])
    assert (settings.configs, settings.workers, settings.seeds) == (["a", "b"], 2, (1, 2))
    export, _ = read_words(ExportSettings, ["--branch", "adv", "runs/a"])
    assert (export.run, export.branch) == ("runs/a", "adv")


def test_entry_of_a_mapping_is_set_by_its_dotted_name():
    words = ["a", "--settings", "{width: 4}", "--settings.epochs=2", "--slurm.gpus_per_node", "1"]
    settings, _ = read_words(SweepSettings, words)
    assert settings.settings == {"width": 4, "epochs": 2}
    assert settings.slurm == {"gpus_per_node": 1}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("- a\n", "must hold lines such as 'epochs: 30', got list"),
        ("config: b.yaml\n", "a.yaml has the unknown setting 'config'"),
        ("1: 2\n", "a.yaml has the unknown setting '1'"),
        ("? [a]\n: 2\n", "a.yaml is not YAML"),
        ("epochz: 3\n", "a.yaml has the unknown setting 'epochz'; did you mean 'epochs'?"),
        ("when: 2026-02-32\n", "a.yaml is not YAML"),
        ("a: &a 1\n", "plain values are required, without tags, anchors and aliases"),
    ],
)
def test_file_that_holds_no_settings_is_refused(text, message):
    Path("a.yaml").write_text(text)
    with pytest.raises(ValueError, match=re.escape(message)):
        read_config("a.yaml", {})


def test_config_is_read_by_name_with_changes_as_the_words_do():
    changed = read_config("digits", {"norm": "bn", "epochs": 2})
    assert changed == read_words(Config, ["--config=digits", "--norm=bn", "--epochs=2"])[0]


def test_settings_import_no_torch():
    folder = Path(read_words.__code__.co_filename).parent
    modules = [f"robustnorm.settings.{path.stem}" for path in folder.glob("*.py")]
    code = (
        f"import sys, importlib\nfor name in {modules}:\n    importlib.import_module(name)\n"
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0

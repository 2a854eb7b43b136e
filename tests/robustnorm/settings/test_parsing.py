import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from robustnorm.settings.config import Config
from robustnorm.settings.diagnose import DiagnoseSettings
from robustnorm.settings.export import ExportSettings
from robustnorm.settings.import_weights import ImportSettings
from robustnorm.settings.parsing import read_config, read_words
from robustnorm.settings.results import CompareSettings, VerifySettings
from robustnorm.settings.style import StyleSettings, StylizeSettings
from robustnorm.settings.sweep import SweepSettings
from robustnorm.system.errors import UserError


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
        ("", "must hold lines such as 'epochs: 30', got none"),
        ("# sha256 of the lines below; remove this one to change them: 12\nepochs: 3\n", "damaged"),
        ("- a\n", "must hold lines such as 'epochs: 30', got list"),
        ("config: b.yaml\n", "a.yaml has the unknown setting 'config'"),
        ("1: 2\n", "a.yaml has the unknown setting '1'"),
        ("? [a]\n: 2\n", "a.yaml is not a YAML file of settings"),
        ("epochz: 3\n", "a.yaml has the unknown setting 'epochz'; did you mean 'epochs'?"),
        ("when: 2026-02-32\n", "a.yaml has the unknown setting 'when'"),
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


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("epochs: 1\nepochs: 2\n", "the key 'epochs' appears twice"),
        ("branches: {a: {epsilon: 1/8, epsilon: 1/4}}", "the key 'epsilon' appears twice"),
        ("epochs: 010\n", "epochs must be a whole number, got 010"),
        ("epochs: 0x10\n", "epochs must be a whole number, got 0x10"),
        ("epochs: 1:30\n", "epochs must be a whole number, got 1:30"),
        ("epochs: 1_0\n", "epochs must be a whole number, got 1_0"),
        ("epochs: 2020-01-01\n", "epochs must be a whole number, got 2020-01-01"),
        ("epochs: 1e3\n", "epochs must be a whole number, got 1000.0"),
        ("learning_rate: 1e-999\n", "1e-999 is too close to 0"),
        ("learning_rate: 1e999\n", "learning_rate must be a number, got inf"),
        ("learning_rate: .nan\n", "learning_rate must be a number, got .nan"),
        ("padding: 1000000000000000000000\n", r"padding must be at most 10\^9"),
        ("padding: 5000\n", "padding must be 0 to 4096, or null, got 5000"),
        ("seed: 18446744073709551616\n", r"seed must be at most 2\^64 - 1"),
        ("name: x/../y\n", "name must be a name for a folder or file"),
        ("config: other.yaml\n", "unknown setting 'config'"),
        ("epochs: " + "9" * 5000, r"epochs must be at most 10\^9, got 9{80}\.\.\.$"),
    ],
)
def test_value_that_yaml_reads_otherwise_than_people_is_refused(text, message):
    Path("a.yaml").write_text(text)
    with pytest.raises((ValueError, UserError), match=message):
        read_words(Config, ["--config", "a.yaml"])


def test_numbers_are_read_as_they_are_written():
    Path("a.yaml").write_text("epochs: 7\nlearning_rate: 1e-3\nmomentum: .5\nseed: 123456789012\n")
    settings, _ = read_words(Config, ["--config", "a.yaml", "--weight_decay", "5e-4"])
    assert (settings.epochs, settings.learning_rate, settings.momentum) == (7, 0.001, 0.5)
    assert (settings.seed, settings.weight_decay) == (123456789012, 0.0005)


def test_abbreviated_option_is_refused():
    Path("a.yaml").write_text("epochs: 3\n")
    with pytest.raises(ValueError, match="unknown setting '--conf'; did you mean 'config'"):
        read_words(Config, ["--conf", "a.yaml"])


@pytest.mark.parametrize(
    ("kind", "words", "config", "kept"),
    [
        (DiagnoseSettings, ["run"], Config, {"seed": 0, "test_limit": 1000, "data": "mine"}),
        (ExportSettings, ["run"], Config, {"output": None, "checkpoint": "last"}),
        (ImportSettings, ["file"], Config, {"checkpoint": "best", "epochs": 7}),
        (VerifySettings, ["record"], Config, {"output": "there", "data": "mine"}),
        (CompareSettings, ["record"], Config, {"checkpoint": "last"}),
        (StylizeSettings, ["run", "a", "b"], StyleSettings, {"content": "a", "style": "b"}),
    ],
)
def test_whole_config_of_a_run_serves_the_commands_on_it(kind, words, config, kept):
    Path("mine").mkdir()
    changes = {
        Config: {"checkpoint": "last", "seed": 3, "test_limit": 5, "epochs": 7},
        StyleSettings: {"content": "photos", "style": "paintings"},
    }[config]
    values = config(data="mine", output="there", **changes).to_dict()
    Path("run.yaml").write_text(yaml.safe_dump(values))
    settings, path = read_words(kind, ["--config", "run.yaml", *words])
    assert path == "run.yaml"
    assert {name: getattr(settings, name) for name in kept} == kept

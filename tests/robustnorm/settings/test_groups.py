import re

import pytest

from robustnorm.settings.base import names
from robustnorm.settings.config import Config
from robustnorm.settings.groups import Compared, Evaluation, Files, Network
from robustnorm.settings.import_weights import ImportSettings
from robustnorm.settings.parsing import read_words
from robustnorm.settings.results import ReportSettings, StudySettings


def test_what_may_differ_between_a_run_and_its_continuation_is_where_and_what_is_evaluated():
    """A field moved into these groups would let a run continue with other settings."""
    assert names(Files, Evaluation) == {
        *("data", "data_root", "download", "resize", "stream", "data_workers"),
        *("device", "output", "reports", "tensorboard"),
        *("compile", "save_minutes", "strict"),
        *("checkpoint", "test_limit", "test_curve", "eval_seed", "eval_precision", "serving"),
        *("worst", "attacks", "transfer", "keep_images", "examples", "checks"),
    }
    assert names(Compared) == {"norm", "seed", "adversarial"}
    assert names(Network) == {
        *("network", "network_args", "final_norm", "width", "input_normalization", "branches"),
    }


def test_config_differs_from_a_study_of_it_in_no_setting():
    assert Config(width=8).differences(StudySettings(what="swap", width=8), frozenset()) == ""


@pytest.mark.parametrize("kind", [ReportSettings, ImportSettings])
def test_setting_of_another_command_is_refused_in_words_and_read_in_a_file(
    kind, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.yaml").write_text("momentum: 0.5\nreports: there\n")
    settings, _ = read_words(kind, ["x", "--config", "a.yaml"])
    assert (settings.name, settings.reports) == ("a", "there")
    assert getattr(settings, "momentum", 0.5) == 0.5
    with pytest.raises(
        ValueError, match="--momentum is not a setting of this command; it may be set"
    ):
        read_words(kind, ["x", "--momentum", "0.5"])
    with pytest.raises(ValueError, match=re.escape("'--momentun'")):
        read_words(kind, ["x", "--momentun", "0.5"])


@pytest.mark.parametrize("field", ["seed", "eval_seed"])
def test_seed_beyond_the_generators_is_refused(field):
    assert getattr(Config(**{field: 2**64 - 1}), field) == 2**64 - 1
    with pytest.raises(ValueError, match=rf"{field} must be at least 0 and below 2\^64, got 18"):
        Config(**{field: 2**64})


@pytest.mark.parametrize("value", [(1, 2), float("inf"), {1: 2}, {"deep": [object()]}])
def test_network_args_that_no_checkpoint_could_hold_are_refused(value):
    with pytest.raises(ValueError, match=r"network_args.a\S* must be a number, text"):
        Network(network_args={"a": value})
    assert Network(network_args={"a": [1, "b", {"c": None}]}).network_args["a"][0] == 1

"""Untrusted files: malicious ones are refused, valid ones are read."""

import json
import os
import re
import subprocess
import sys
from collections import OrderedDict
from pathlib import Path
from typing import get_args, get_type_hints

import malicious
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import robustnorm
from robustnorm import cli, resnet18
from robustnorm.data import decoding
from robustnorm.exchange import foreign
from robustnorm.exchange.foreign import read_weights
from robustnorm.exchange.loaders import LOADERS, load_released
from robustnorm.models.weights import check_weights
from robustnorm.records.record import Record
from robustnorm.settings.import_weights import ImportSettings
from robustnorm.system import torch_files, untrusted
from robustnorm.system.errors import RefusedFileError, Status
from robustnorm.system.untrusted import check_yaml, parse_fraction

ROOT = Path(robustnorm.__file__).parents[1]
# The command line reports these as settings that do not fit, like any other mistyped value.
NOT_SETTINGS = {
    "settings-that-name-a-class",
    "settings-that-name-a-class-in-a-word",
    "plan-that-names-a-class",
    "fraction-of-a-billion-digits",
    "yaml-of-9-000-keys",
    "yaml-of-one-long-line",
}
# Nothing of these is harmful; they are data that no one means.
NOT_DATA = {
    "csv-that-lists-one-image-100-000-times",
    "folder-that-holds-itself-three-times",
    "tiff-of-150-000-pages",
}


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory):
    """The outcome of each malicious file, read in a separate process."""
    place = tmp_path_factory.mktemp("malicious")
    done = subprocess.run(
        [sys.executable, malicious.__file__, str(place)],
        capture_output=True,
        check=True,
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
    )
    return json.loads(done.stdout)


@pytest.mark.parametrize("name", malicious.CASES)
def test_malicious_file_is_refused_with_no_side_effect_within_the_bounds(outcomes, name):
    found = outcomes[name]
    if name in NOT_SETTINGS | NOT_DATA:
        assert found["error"] == ("DataError" if name in NOT_DATA else "UsageError")
        assert len(found["message"].splitlines()) == 1
    else:
        assert found["status"] == Status.REFUSED, found
        assert len(found["message"].splitlines()) == 1
    assert found["made"] == []
    assert found["seconds"] < 2
    assert found["megabytes"] < 500


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("pickle-that-runs-a-command", "its pickle names posix system"),
        ("pickle-of-a-gigabyte", "bytearray"),
        ("zip-bomb", "data.pkl is compressed"),
        ("safetensors-with-tensors-that-overlap", "invalid offset for tensor `b`"),
        ("weights-not-a-number", "layer1.0.conv1.weight must be finite"),
        ("negative-variance", "bn1.running_var must be at least 0, got -0.001"),
        ("xz-bomb", "it holds more than"),
        ("image-that-is-a-program", "cannot identify image file"),
        ("manifest-of-a-network-of-a-terabyte", "of another shape"),
    ],
)
def test_refusal_names_what_is_wrong(outcomes, name, message):
    assert message in outcomes[name]["message"]


def test_malicious_settings_end_the_command_with_refused(tmp_path, capsys):
    (tmp_path / "config.yaml").write_text("a: &a [x]\nattacks: *a\n")
    assert cli.main(["train", "--config", str(tmp_path / "config.yaml")]) == Status.REFUSED
    assert "without tags, anchors and aliases" in capsys.readouterr().err


@pytest.mark.parametrize("value", ["1", "true", "Yes", "on"])
def test_torch_file_is_refused_while_the_environment_turns_weights_only_off(
    tmp_path, monkeypatch, value
):
    torch.save({"weight": torch.ones(1)}, tmp_path / "w.pt")
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", value)
    with pytest.raises(RefusedFileError, match="TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD is"):
        read_weights(tmp_path / "w.pt")
    save_file({"weight": torch.ones(1)}, tmp_path / "w.safetensors")
    assert read_weights(tmp_path / "w.safetensors").keys() == {"weight"}


STATE = OrderedDict(weight=torch.arange(3.0), steps=torch.tensor(2), half=torch.ones(2).bfloat16())


@pytest.mark.parametrize(
    "content",
    [
        STATE,
        {"epoch": 3, "state_dict": STATE, "optimizer": {"lr": 0.1, "betas": (0.9, 0.99)}},
        {"net": dict(STATE), "acc": 93.5},
        {"model": {name: nn.Parameter(v, requires_grad=False) for name, v in STATE.items()}},
    ],
    ids=["state", "state_dict", "net", "parameters"],
)
def test_what_torch_saved_is_read(tmp_path, content):
    torch.save(content, tmp_path / "weights.any")
    read = read_weights(tmp_path / "weights.any")
    assert read.keys() == STATE.keys()
    assert all(torch.equal(read[name], value) for name, value in STATE.items())


def test_safetensors_are_read_whatever_the_name(tmp_path):
    save_file(dict(STATE), tmp_path / "weights.pt", metadata={"format": "pt"})
    read = read_weights(tmp_path / "weights.pt")
    assert all(torch.equal(read[name], value) for name, value in STATE.items())


@pytest.mark.parametrize("norm", ["bn", "auxbn", "saauxbn", "modenorm"])
@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_weights_of_the_network_itself_are_accepted(norm, device):
    with torch.device(device):
        model = resnet18(norm=norm, width=2)
    check_weights(resnet18(norm=norm, width=2).state_dict(), model, "it")


def test_second_moment_may_fall_below_the_squared_mean_by_rounding():
    model = resnet18(norm="modenorm", width=2)
    state = model.state_dict()
    state["bn1.running_mean"].fill_(3.0)
    state["bn1.running_second_moment"].fill_(9.0 - 1e-5)
    check_weights(state, model, "it")


def test_refused_weights_leave_the_network_as_it_is():
    model = resnet18(norm="bn", width=2)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    other = resnet18(norm="bn", width=2).state_dict()
    other["fc.bias"] = other["fc.bias"].clone().fill_(torch.inf)
    with pytest.raises(RefusedFileError, match=r"fc\.bias must be finite"):
        load_released(model, other, "plain")
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_every_config_of_the_package_is_plain():
    paths = list((ROOT / "configs").glob("*.yaml"))
    assert paths
    for path in paths:
        check_yaml(path)


@pytest.mark.parametrize("value", ["1e1_0_0_0_0", "1e-99999", "9" * 101, "nan", "1/0", "x"])
def test_fraction_that_is_none_or_fills_the_memory_is_refused(value):
    with pytest.raises(ValueError, match="a number such as 8/255"):
        parse_fraction(value)


def test_documented_limits_are_those_of_the_code():
    text = " ".join((ROOT / "docs" / "security.md").read_text().split())
    for number, unit in (
        (foreign._MOST_HEADER_BYTES / 1e6, "MB without duplicate keys"),
        (untrusted.MOST_YAML_BYTES / 1e3, "kB of YAML"),
        (untrusted.most_bytes(0) / 1e6, "MB plus"),
        (untrusted.most_bytes(1) - untrusted.most_bytes(0), "times its size"),
        (untrusted.most_decoded(0) / 1e6, "MB plus 100 times"),
    ):
        assert f"{number:.0f} {unit}" in text
    assert f"{untrusted.MOST_PIXELS:,} pixels" in text
    assert f"{untrusted._MOST_VALUES:,} values" in text
    assert f"{untrusted._MOST_NAME:,}, with its folders" in text
    assert f"| nested folders | {untrusted.MOST_DEPTH} |" in text
    assert f"{untrusted._MOST_YAML_DEPTH} levels" in text
    assert f"{decoding._MOST_SCANS} with that many pixels" in text
    assert f"{untrusted.most_members(0):,} members plus one for every 50 bytes" in text
    assert all(f"`{name}`" in text for name in torch_files.GLOBALS)


NETWORK = ["--width=4", "--norm=auxbn", "--device=cpu"]


def test_imported_weights_are_evaluated_and_reports_claim_no_training(
    tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    model = resnet18(norm="auxbn", width=4, in_channels=1, mean=(0.5,), std=(0.5,))
    torch.save({"state_dict": model.state_dict()}, "foreign.pth")
    words = [*NETWORK, "--name=imported"]
    assert cli.main(["import", "foreign.pth", *words]) == Status.DONE
    assert cli.main(["import", "foreign.pth", *words]) == Status.USAGE  # it is there already
    assert cli.main(["train", *words]) == Status.USAGE  # would go on as if it had trained them
    capsys.readouterr()
    assert cli.main(["eval", *words, "--test_limit=10", "--checks=none"]) == Status.DONE
    tables = " ".join(capsys.readouterr().out.split())
    assert "weights imported from foreign.pth, their training is not known" in tables
    assert not re.search(r"\d+ epoch|epochs \d+|training images \d+|seed \d", tables)
    record = Record.load(Path("reports/imported/records/auxbn-seed0-best.json"))
    assert record.checkpoint["imported"]["layout"] == "plain"
    assert "learning_rate" not in record.config


def test_import_refuses_what_does_not_fit_and_makes_no_run(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    model = resnet18(norm="bn", width=4, in_channels=1, mean=(0.5,), std=(0.5,))
    torch.save(model.state_dict(), "foreign.pth")
    assert cli.main(["import", "foreign.pth", *NETWORK]) == Status.REFUSED
    assert "robustnorm: foreign.pth: the state, read as 'plain'" in capsys.readouterr().err
    assert not Path("checkpoints").exists()
    assert cli.main(["import", *NETWORK]) == Status.USAGE


def test_import_offers_every_layout():
    assert set(get_args(get_type_hints(ImportSettings)["layout"])) == set(LOADERS)

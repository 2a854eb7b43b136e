"""Every command on a network of other code: of a module in the current folder, or of timm."""

import json
import sys
from itertools import count
from pathlib import Path

import pytest
import tiny_networks
import torch
from safetensors.torch import load_file

from robustnorm import cli
from robustnorm.exchange.export import load_exported
from robustnorm.models import NETWORKS
from robustnorm.records.record import Record
from robustnorm.runs import Run
from robustnorm.runs.run import load_model
from robustnorm.settings.parsing import read_config
from robustnorm.system.errors import Status, UsageError
from robustnorm.work.train import train_run

SMALL = {
    **{"train_limit": 64, "validation": 32, "batch_size": 32, "epochs": 2, "train_steps": 1},
    **{"validation_steps": 1, "device": "cpu", "test_limit": 20, "worst": False},
}
WORDS = [f"--{name}={value}" for name, value in SMALL.items()]
RUN, RECORD = "checkpoints/own/saauxbn-seed0", "reports/own/records/saauxbn-seed0-best.json"


@pytest.fixture
def module(tmp_path, monkeypatch):
    """The current folder, with the tests' factories in a module of a name of its own."""
    monkeypatch.chdir(tmp_path)
    name = f"own_{tmp_path.name}"
    Path(f"{name}.py").write_text(Path(tiny_networks.__file__).read_text())
    yield name
    sys.modules.pop(name, None)
    NETWORKS._sources.clear()


def train(network, *words, norm="saauxbn", name="own"):
    options = [f"--network={network}", f"--norm={norm}", f"--name={name}", *WORDS, *words]
    return cli.main(["train", "--config=digits", *options])


def test_run_goes_through_every_command_with_its_name_and_through_none_without(module, capsys):
    network = f"{module}:plain"
    args = "--network_args={width: 5}"
    assert train(network, args) == Status.DONE
    common = ["--config=digits", "--name=own", *WORDS]
    keep = ["--keep_images", "--checks=none"]
    assert cli.main(["eval", *common, f"--network={network}", args, *keep]) == Status.DONE
    told = capsys.readouterr().out
    told = " ".join(told.split())
    assert f"{network}(width=5) (file {module}.py, sha256 " in told
    assert "of width" not in told
    record = Record.load(Path(RECORD))
    source = NETWORKS.source(network)
    assert record.checkpoint["network_source"] == source
    assert source["file"] == f"{module}.py"
    assert (record.config["network"], record.config["network_args"]) == (network, {"width": 5})
    sys.modules.pop(module)
    for command in (
        ["verify", RECORD],
        ["diagnose", RUN, "--test_limit=100", "--batches=2", "--steps=1"],
        ["export", RUN, "--branch=adv", "--to=safetensors", "--check_images=3"],
    ):
        assert cli.main(command) == Status.USAGE, command
        told = capsys.readouterr().err
        assert f"add --network {network}" in told
        assert "Traceback" not in told
        assert module not in sys.modules
        assert cli.main([*command, f"--network={network}"]) == Status.DONE, command
        sys.modules.pop(module)
    assert cli.main(["report", RECORD, "--name=page"]) == Status.DONE  # needs no network
    assert module not in sys.modules
    file = Path(RUN) / "export/best-adv.safetensors"
    with pytest.raises(UsageError, match=f"add --network {network}"):
        load_exported(file)
    model, _ = load_model(Path(RUN), network=network)
    images = torch.rand(3, 1, 8, 8)
    assert load_exported(file, network=network)(images).shape == (3, 10)
    assert "network.0.weight" in load_file(file)
    assert model.network[0].weight.shape[0] == 5


@pytest.mark.parametrize("factory", ["plain", "normed"])
def test_stopped_run_ends_as_the_uninterrupted_one(module, factory):
    network = f"{module}:{factory}"
    changes = SMALL | {"network": network, "norm": "auxbn"}
    asked = count(1)
    with NETWORKS.typed(network):
        train_run(read_config("digits", changes | {"name": "whole"}))
        stopped = read_config("digits", changes | {"name": "stopped"})
        train_run(stopped, should_stop=lambda seconds: seconds >= 0 and next(asked) == 2)
        assert Run.open(Path("checkpoints/stopped/auxbn-seed0"), "last").epoch == 0
        train_run(stopped)
    whole, resumed = (
        Run.open(Path(f"checkpoints/{n}/auxbn-seed0"), "last") for n in ("whole", "stopped")
    )
    assert whole.sha256 == resumed.sha256


def test_change_of_the_module_is_told_where_the_run_is_opened(module, caplog):
    network = f"{module}:plain"
    assert train(network) == Status.DONE
    with Path(f"{module}.py").open("a") as file:
        file.write("# changed\n")
    sys.modules.pop(module)
    NETWORKS._sources.clear()
    load_model(Path(RUN), network=network)
    assert f"the code of network {network} has changed since this checkpoint" in caplog.text
    caplog.clear()
    NETWORKS._sources.clear()
    Path(f"{module}.py").write_text(Path(tiny_networks.__file__).read_text())
    sys.modules.pop(module)
    load_model(Path(RUN), network=network)
    assert "changed" not in caplog.text


@pytest.mark.parametrize(
    ("factory", "words", "message"),
    [
        ("nothing", [], "has no 'nothing'"),
        ("a_tuple", [], "it returns a tuple: return the logits alone"),
        ("on_meta", [], "meta device"),
        ("plain", ["--network_args={num_classes: 3}"], "it returns (2, 3) for 2 images"),
        ("plain", ["--network_args={depth: 3}"], "network_args has 'depth'"),
        ("plain", ["--network_args=[3]"], "network_args must be a mapping"),
        ("bare", [], "cannot take the norm 'saauxbn': it has no batch norm"),
        ("layers", [], "must return a torch.nn.Module, got a list"),
        ("fails", [], "cannot be built (RuntimeError: no such luck)"),
    ],
)
def test_wrong_network_ends_in_one_sentence(module, capsys, factory, words, message):
    assert train(f"{module}:{factory}", *words) == Status.USAGE
    told = capsys.readouterr().err
    assert message in told
    assert "Traceback" not in told
    assert len(told.splitlines()) == 1
    assert not Path("checkpoints/own/saauxbn-seed0/last.json").exists()


@pytest.mark.slow
def test_workers_of_a_sweep_are_told_what_was_typed(module, capsys):
    settings = json.dumps({k: v for k, v in SMALL.items() if k != "device"} | {"checks": "none"})
    words = ["digits", "--norms=[auxbn]", "--control=false", "--device=cpu", "--workers=1"]
    command = ["sweep", *words, f"--settings={settings}", f"--network={module}:normed"]
    assert cli.main(command) == Status.DONE
    assert "AuxBN (adv)" in capsys.readouterr().out
    assert Record.load(Path("reports/digits/records/auxbn-seed0-best.json")).checkpoint[
        "network_source"
    ]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["resnet10t", "test_efficientnet"])
def test_network_of_timm_is_trained_evaluated_and_exported(
    torchvision_library, tmp_path, monkeypatch, capsys, name
):
    pytest.importorskip("timm")
    monkeypatch.chdir(tmp_path)
    assert train(f"timm:{name}") == Status.DONE
    common = ["--config=digits", "--name=own", *WORDS, f"--network=timm:{name}"]
    assert cli.main(["eval", *common, "--checks=none"]) == Status.DONE
    assert Record.load(Path(RECORD)).checkpoint["network_source"].keys() == {"timm"}
    for to in ("safetensors", "torch-export"):
        words = ["--branch=adv", f"--to={to}", "--check_images=3"]
        assert cli.main(["export", RUN, *words]) == Status.DONE
    import timm

    plain = timm.create_model(name, num_classes=10, in_chans=1)
    state = load_file(Path(RUN) / "export/best-adv.safetensors")
    plain.load_state_dict(
        {k.removeprefix("network."): v for k, v in state.items() if k.startswith("network.")}
    )  # under timm's own names
    for words, message in (
        (["--network=timm:resnet10tt"], "has no network 'resnet10tt'; did you mean 'resnet10t'?"),
        (["--network=timm:hf-hub:someone/net"], "has no network 'hf-hub:someone/net'"),
        (["--network_args={pretrained: true}"], "cannot have pretrained: a run starts from new"),
    ):
        capsys.readouterr()
        assert train(f"timm:{name}", *words, name="other") == Status.USAGE
        assert message in capsys.readouterr().err

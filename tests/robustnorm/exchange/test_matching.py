"""Weights in the layouts of public releases, as files that their code would have written."""

import argparse
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from robustnorm import cli, resnet18
from robustnorm.exchange.foreign import find_weights
from robustnorm.exchange.matching import match_names
from robustnorm.models.wideresnet import WideResNet
from robustnorm.runs import Run
from robustnorm.system.errors import RefusedFileError, Status


def network(seed=0, **options):
    torch.manual_seed(seed)
    settings = {"norm": "bn", "width": 4, "in_channels": 1, "mean": (0.25,), "std": (0.5,)}
    return resnet18(**settings | options)


def inner(model):
    """The state of a network whose code normalizes elsewhere."""
    return {k: v for k, v in model.state_dict().items() if not k.startswith("normalize.")}


def prefixed(prefix, state):
    return {prefix + name: value for name, value in state.items()}


MEAN, STD = torch.full((1, 1, 1, 1), 0.25), torch.full((1, 1, 1, 1), 0.5)
OWN = {"normalize.mean": MEAN, "normalize.std": STD}


def without_counts(state):
    return {name: v for name, v in state.items() if not name.endswith("num_batches_tracked")}


# What torch.save is given, from the inner state and the whole network.
FILES = {
    "whole state": lambda s, m: m.state_dict(),
    "DataParallel": lambda s, m: prefixed("module.", m.state_dict()),
    "torch.compile": lambda s, m: prefixed("_orig_mod.", m.state_dict()),
    "compile in DDP": lambda s, m: prefixed("module._orig_mod.", m.state_dict()),
    "DDP in compile": lambda s, m: prefixed("_orig_mod.module.", m.state_dict()),
    "module.model": lambda s, m: prefixed("module.model.", m.state_dict()),
    "net": lambda s, m: prefixed("net.", m.state_dict()),
    "backbone": lambda s, m: prefixed("backbone.", m.state_dict()),
    "Lightning": lambda s, m: {
        "state_dict": prefixed("model.", m.state_dict()), "epoch": 3, "global_step": 7,
        "pytorch-lightning_version": "2.0", "hyper_parameters": {"lr": 0.1}, "callbacks": {},
    },
    "optimizer beside it": lambda s, m: {
        "model": m.state_dict(), "epoch": 9,
        "optimizer": torch.optim.SGD(m.parameters(), 0.1, momentum=0.9).state_dict(),
    },
    "numpy scores": lambda s, m: {
        "state_dict": m.state_dict(), "best": np.float64(0.5), "curve": np.arange(4.0),
    },
    "argparse arguments": lambda s, m: {
        "state_dict": m.state_dict(), "args": argparse.Namespace(lr=0.1, out=None),
    },
    "net and acc": lambda s, m: {"net": m.state_dict(), "acc": 91.2, "epoch": 5},
    "nested twice": lambda s, m: {"model": {"state_dict": prefixed("module.", m.state_dict())}},
    "running average beside it": lambda s, m: {
        "model": m.state_dict(), "ema_state_dict": network(7).state_dict(),
    },
    "MadryLab's normalizer": lambda s, m: {
        "model": prefixed("module.model.", s)
        | {"module.normalizer.new_mean": MEAN, "module.normalizer.new_std": STD},
    },
    "mu and sigma": lambda s, m: s | {"mu": MEAN, "sigma": STD},
    "Sequential of normalizer and network": lambda s, m: prefixed("1.", s)
    | {"0.mean": MEAN, "0.std": STD},
    "RobustBench": lambda s, m: prefixed("model.", s) | prefixed("model.", OWN),
    "before counts of batches": lambda s, m: without_counts(m.state_dict()),
    "half precision": lambda s, m: {
        k: v.half() if v.is_floating_point() else v for k, v in m.state_dict().items()
    },
}  # fmt: skip


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run_import(file, *words):
    options = ["--width=4", "--norm=bn", "--device=cpu", "--name=x", *words]
    return cli.main(["import", str(file), *options])


def loaded():
    return Run.open(Path("checkpoints/x/bn-seed0")).network(torch.device("cpu"))


def images():
    return torch.rand(3, 1, 8, 8, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "before 1.6"])
@pytest.mark.parametrize("layout", FILES)
def test_weights_are_found_in_every_layout(place, layout, legacy):
    model = network().eval()
    content = FILES[layout](inner(model), model)
    torch.save(content, "weights.pt", _use_new_zipfile_serialization=not legacy)
    assert run_import("weights.pt") == Status.DONE
    tolerance = {"rtol": 0, "atol": 1e-2 if layout == "half precision" else 1e-6}
    torch.testing.assert_close(loaded().eval()(images()), model(images()), **tolerance)


def test_safetensors_with_a_prefix_are_found(place):
    model = network().eval()
    save_file({k: v.contiguous() for k, v in prefixed("module.", model.state_dict()).items()}, "w")
    assert run_import("w") == Status.DONE
    torch.testing.assert_close(loaded().eval()(images()), model(images()))


def test_running_average_is_taken_where_it_is_asked_for(place, capsys):
    content = FILES["running average beside it"](None, network())
    torch.save(content, "weights.pt")
    assert run_import("weights.pt") == Status.DONE
    assert "also there: ema_state_dict; --part takes them" in capsys.readouterr().out
    assert run_import("weights.pt", "--seed=1", "--part=ema_state_dict") == Status.DONE
    found = Run.open(Path("checkpoints/x/bn-seed1"))
    assert found.imported["part"] == "ema_state_dict"
    average = found.network(torch.device("cpu")).eval()
    torch.testing.assert_close(average(images()), network(7).eval()(images()))
    assert run_import("weights.pt", "--seed=2", "--part=swa") == Status.REFUSED
    assert "no tensors are under 'swa'" in capsys.readouterr().err


def test_normalization_is_asked_for_never_guessed_and_never_doubled(place, capsys):
    model = network().eval()
    torch.save(inner(model), "bare.pt")
    assert run_import("bare.pt") == Status.USAGE
    assert "holds no mean and deviation of its input: give --input_norm" in capsys.readouterr().err
    assert run_import("bare.pt", "--mean=0.25", "--std=0.5") == Status.DONE
    assert "normalized inside, by mean 0.25 and deviation 0.5" in capsys.readouterr().out
    torch.testing.assert_close(loaded().eval()(images()), model(images()))
    assert run_import("bare.pt", "--seed=1", "--input_normalization=none") == Status.DONE
    assert "its input is not normalized" in capsys.readouterr().out
    torch.save(model.state_dict(), "own.pt")
    assert run_import("own.pt", "--seed=2", "--mean=0.25", "--std=0.5") == Status.USAGE
    assert "mean and deviation of its own: leave out --mean" in capsys.readouterr().err
    assert run_import("own.pt", "--seed=2", "--input_normalization=none") == Status.USAGE
    assert "leave out --input_normalization none" in capsys.readouterr().err
    record = Run.open(Path("checkpoints/x/bn-seed0")).imported["normalization"]
    assert record == {"mean": [0.25], "std": [0.5]}


def test_whole_network_is_refused_with_the_line_that_helps(place, capsys):
    torch.save(nn.Linear(2, 2), "module.pt")
    assert run_import("module.pt") == Status.REFUSED
    told = capsys.readouterr().err
    assert "torch.load('module.pt', weights_only=False)" in told
    assert "state_dict()" in told


def test_web_page_is_called_one(place):
    Path("weights.pt").write_text("<!DOCTYPE html><html>Google Drive - Virus scan warning</html>")
    with pytest.raises(RefusedFileError, match="is a web page, not weights"):
        find_weights(Path("weights.pt"))


def test_legacy_file_that_names_a_program_is_refused(place):
    class Evil:
        def __reduce__(self):
            return print, ("owned",)

    torch.save({"a": Evil()}, "evil.pt", _use_new_zipfile_serialization=False)
    with pytest.raises(RefusedFileError, match=r"its pickle names .*print"):
        find_weights(Path("evil.pt"))


def test_names_of_wide_resnets_are_those_of_public_ones():
    model = WideResNet(10, 1)
    state = prefixed("module.", model.state_dict())
    assert match_names(state, model.state_dict()).keys() == model.state_dict().keys()


def test_what_does_not_fit_is_left_to_be_named():
    wanted = {"fc.weight": torch.zeros(2, 2)}
    found = match_names({"module.fc.weight": torch.zeros(2, 2), "head.bias": torch.ones(1)}, wanted)
    assert found.keys() == {"fc.weight", "head.bias"}

"""Weights in the layouts of public releases, as files that their code would have written."""

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from weight_files import FILES, MEAN, STD, inner, other, prefixed

from robustnorm import cli, resnet18
from robustnorm.exchange.foreign import find_weights
from robustnorm.exchange.matching import match_names
from robustnorm.models import NETWORKS
from robustnorm.models.resnet import InputNormalization
from robustnorm.models.wideresnet import WideResNet
from robustnorm.runs import Run
from robustnorm.system.errors import RefusedFileError, Status


def network(seed=0, **options):
    torch.manual_seed(seed)
    settings = {"norm": "bn", "width": 4, "in_channels": 1, "mean": (0.25,), "std": (0.5,)}
    return resnet18(**settings | options)


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run_import(file, *words):
    options = ["--width=4", "--norm=bn", "--device=cpu", "--name=x", *words]
    return cli.main(["import", str(file), *options])


def loaded(seed=0):
    return Run.open(Path(f"checkpoints/x/bn-seed{seed}")).network(torch.device("cpu"))


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
    assert "--part can choose ema_state_dict instead" in capsys.readouterr().out
    assert run_import("weights.pt", "--seed=1", "--part=ema_state_dict") == Status.DONE
    found = Run.open(Path("checkpoints/x/bn-seed1"))
    assert found.imported["part"] == "ema_state_dict"
    average = found.network(torch.device("cpu")).eval()
    torch.testing.assert_close(average(images()), other(network()).eval()(images()))
    assert run_import("weights.pt", "--seed=2", "--part=swa") == Status.REFUSED
    assert "it has no tensors under 'swa'" in capsys.readouterr().err


def test_normalization_is_asked_for_never_guessed_and_never_doubled(place, capsys):
    model = network().eval()
    torch.save(inner(model), "bare.pt")
    assert run_import("bare.pt") == Status.USAGE
    assert (
        "does not contain the mean and std of its input: set --input_norm"
        in capsys.readouterr().err
    )
    assert run_import("bare.pt", "--mean=0.25", "--std=0.5") == Status.DONE
    assert "normalized inside the network, with mean 0.25 and std 0.5" in capsys.readouterr().out
    torch.testing.assert_close(loaded().eval()(images()), model(images()))
    assert run_import("bare.pt", "--seed=1", "--input_normalization=none") == Status.DONE
    assert "its input is not normalized" in capsys.readouterr().out
    torch.save(model.state_dict(), "own.pt")
    assert run_import("own.pt", "--seed=2", "--mean=0.25", "--std=0.5") == Status.USAGE
    assert "has its own mean and std: leave out --mean" in capsys.readouterr().err
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


def test_second_copies_are_left_out_only_where_they_are_equal():
    one, two = torch.ones(2), torch.zeros(2)
    wanted = {"fc.bias": one}
    equal = {"model.fc.bias": one, "attacker.model.fc.bias": one.clone()}
    assert match_names(equal, wanted).keys() == {"fc.bias"}
    differ = {"model.fc.bias": one, "ema.model.fc.bias": two}
    assert match_names(differ, wanted).keys() == {"fc.bias", "ema.model.fc.bias"}
    clash = {"m.fc.bias": one, "m.fc.weight": one, "fc.bias": two}
    found = match_names(clash, {"fc.bias": one, "fc.weight": one})
    assert found.keys() == {"fc.bias", "fc.weight", "fc.bias beside m.fc.bias"}
    assert torch.equal(found["fc.bias"], one)


def test_mean_and_deviation_take_the_names_that_the_network_has_for_them():
    mean, std = torch.tensor([0.25]), torch.tensor([0.5])
    wanted = {"0.mean": torch.zeros(1, 1, 1), "0.std": torch.ones(1, 1, 1), "1.bias": mean}
    found = match_names({"module.mu": mean, "module.sigma": std, "module.1.bias": mean}, wanted)
    assert found.keys() == wanted.keys()
    assert found["0.mean"].shape == (1, 1, 1)
    other = {"a.mu": mean, "a.sigma": std, "b.mu": mean, "b.sigma": std + 1}
    assert match_names(other, {}).keys() == {"normalize.mean", "normalize.std", "b.sigma"}


def test_unused_block_of_trades_is_loaded_where_the_network_has_it_and_left_out_elsewhere():
    state = {"conv1.weight": torch.ones(1), "sub_block1.layer.0.conv1.weight": torch.ones(1)}
    assert match_names(state, {"conv1.weight": torch.ones(1)}).keys() == {"conv1.weight"}
    assert match_names(state, state).keys() == state.keys()


def save_npz(path, labels):
    np.savez(path, x_test=np.zeros((len(labels), 8, 8, 1), np.uint8), y_test=np.array(labels))


def test_test_images_alone_leave_normalization_and_number_of_classes_to_the_weights(place, capsys):
    save_npz("few.npz", [0, 3, 1])
    model = network().eval()
    torch.save(model.state_dict(), "w.pt")
    assert run_import("w.pt", "--data=few.npz") == Status.DONE
    torch.testing.assert_close(loaded().eval()(images()), model(images()))
    assert len(Run.open(Path("checkpoints/x/bn-seed0")).dataset["classes"]) == 10
    save_npz("many.npz", [0, 11])
    capsys.readouterr()
    assert run_import("w.pt", "--data=many.npz", "--seed=1") == Status.USAGE
    assert "w.pt holds a network with 10 classes, but many has 12" in capsys.readouterr().err


def test_network_of_other_code_is_normalized_by_itself_or_by_a_layer_before_it(
    place, capsys, monkeypatch
):
    def bare(num_classes):
        return nn.Sequential(nn.Flatten(), nn.Linear(64, num_classes))

    def normalizing(num_classes):
        return nn.Sequential(InputNormalization([0.25], [0.5]), *bare(num_classes))

    for factory in (bare, normalizing):
        monkeypatch.setitem(NETWORKS, factory.__name__, factory)
    model = bare(10)
    torch.save(model.state_dict(), "w.pt")
    words = ["--mean=0.25", "--std=0.5"]
    assert run_import("w.pt", "--network=bare") == Status.USAGE
    assert "set --input_normalization none" in capsys.readouterr().err
    assert run_import("w.pt", "--network=bare", *words) == Status.DONE
    expected = model((images() - 0.25) / 0.5)
    torch.testing.assert_close(loaded()(images()), expected)
    torch.save(
        {f"1.{k}": v for k, v in model.state_dict().items()} | {"0.mu": MEAN, "0.sigma": STD},
        "m.pt",
    )
    assert run_import("m.pt", "--network=bare", "--seed=1") == Status.DONE
    torch.testing.assert_close(loaded(1)(images()), expected)
    own = {f"{int(k[0]) + 1}{k[1:]}": v for k, v in model.state_dict().items()}
    torch.save(own, "own.pt")
    assert run_import("own.pt", "--network=normalizing", "--seed=2") == Status.DONE
    torch.testing.assert_close(loaded(2)(images()), expected)
    capsys.readouterr()
    assert run_import("own.pt", "--network=normalizing", "--seed=3", *words) == Status.USAGE
    assert "normalizing has its own mean and std" in capsys.readouterr().err

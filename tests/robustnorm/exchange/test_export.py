"""Exported files: their predictions at any batch size, and that a wrong file is removed."""

import json
import sys

import pytest
import torch
from differing_branches import trained
from foreign_networks import AttackerModel, Dictionary, HuggingFace
from torch import nn

from robustnorm import RoutingError, fold, resnet18, route
from robustnorm.attacks.logits import find_logits
from robustnorm.exchange.export import (
    TOLERANCE,
    Description,
    ExportError,
    export,
    largest_difference,
    load_exported,
)
from robustnorm.norms import NORMS
from robustnorm.system.sealed import unseal

pytestmark = pytest.mark.slow

SAAUXBN = {"network": "resnet18", "arguments": {"norm": "bn", "width": 4}}
IMAGES = torch.rand(7, 3, 8, 8, generator=torch.Generator().manual_seed(1))


def small(norm):
    """One norm between two convolutions: the graph of any network, in seconds."""
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 8, 3), NORMS[norm](8), nn.ReLU(), nn.Conv2d(8, 10, 6), nn.Flatten()]
    return trained(nn.Sequential(*layers))


@pytest.mark.parametrize("to", ["torch-export", "onnx"])
@pytest.mark.parametrize("factory", [AttackerModel, HuggingFace, Dictionary])
def test_logits_of_a_tuple_an_object_or_a_dictionary_are_exported_alone(tmp_path, to, factory):
    model, path = factory(3).eval(), tmp_path / ("net.onnx" if to == "onnx" else "net.pt2")
    export(model, "single", path, to=to, images=IMAGES)
    with torch.no_grad():
        expected = find_logits(model(IMAGES), len(IMAGES))
    torch.testing.assert_close(load_exported(path)(IMAGES), expected, rtol=0, atol=TOLERANCE)


def test_forward_that_torch_cannot_follow_is_refused_in_a_sentence(tmp_path):
    class Depends(nn.Module):
        def forward(self, images):
            rows = images.flatten(1)[:, :4]
            return rows if images.sum().item() > 1 else -rows

    with pytest.raises(ExportError, match=r"cannot trace the network's forward .*--to safet") as e:
        export(Depends().eval(), "single", tmp_path / "a.pt2", to="torch-export", images=IMAGES)
    assert len(str(e.value).splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("norm", ["saauxbn", "modenorm"])
@pytest.mark.parametrize("to", ["torch-export", "onnx"])
def test_program_answers_as_the_branch_in_any_batch_size(tmp_path, to, norm):
    model, path = small(norm), tmp_path / ("adv.onnx" if to == "onnx" else "adv.pt2")
    difference = export(model, "adv", path, to=to, images=IMAGES)
    assert list(tmp_path.iterdir()) == [path]
    program = load_exported(path)
    for size in (1, 2, 7):
        with route(model, "adv"), torch.no_grad():
            expected = model(IMAGES[:size])
        torch.testing.assert_close(program(IMAGES[:size]), expected, rtol=0, atol=TOLERANCE)
    with route(model, "adv"), torch.no_grad():
        assert (program(IMAGES) - model(IMAGES)).abs().max() <= difference + 1e-6  # other chunks
    if norm == "saauxbn":
        with route(model, "clean"), torch.no_grad():
            assert not torch.allclose(program(IMAGES), model(IMAGES), atol=0.01)


@pytest.mark.parametrize("to", ["safetensors", "huggingface"])
def test_weights_rebuild_the_folded_network(tmp_path, to):
    torch.manual_seed(0)
    model = trained(resnet18("saauxbn", width=4))
    path = tmp_path / ("adv.safetensors" if to == "safetensors" else "adv")
    export(model, "adv", path, to=to, images=IMAGES, description=Description(SAAUXBN, "# Card"))
    loaded, folded = load_exported(path), fold(model, "adv")
    assert all(torch.equal(v, loaded.state_dict()[k]) for k, v in folded.state_dict().items())
    if to == "huggingface":
        assert {p.name for p in path.iterdir()} == {"config.json", "model.safetensors", "README.md"}
        assert unseal(json.loads((path / "config.json").read_text())) == (SAAUXBN, True)
        assert (path / "README.md").read_text() == "# Card"


def test_export_that_answers_otherwise_is_removed_and_the_former_file_stays(tmp_path):
    torch.manual_seed(0)
    model = trained(resnet18("saauxbn", width=4))
    model.bn1.eps = 0.1  # which neither the weights nor the description hold
    path = tmp_path / "adv.safetensors"
    path.write_bytes(b"former")
    with pytest.raises(ExportError, match="does not agree with the network"):
        export(
            model, "adv", path, to="safetensors", images=IMAGES, description=Description(SAAUXBN)
        )
    assert list(tmp_path.iterdir()) == [path]
    assert path.read_bytes() == b"former"


@pytest.mark.parametrize(
    ("exported", "message"),
    [
        (lambda x: x + 2e-4, r"a logit differs by 2\.0e-04 .* 0 of 3 predictions differ"),
        (lambda x: torch.stack([x[:, 0], x[:, 0] + 1e-5], 1), "3 of 3 predictions differ"),
        (lambda x: x * torch.nan, "a logit differs by nan"),
    ],
)
def test_compare_refuses_other_logits_and_other_predictions(exported, message):
    logits = torch.tensor([[0.5, 0.499995]]).expand(3, 2).contiguous()
    with pytest.raises(ExportError, match=message):
        largest_difference(
            lambda images: logits[: len(images)],
            lambda images: exported(logits[: len(images)]),
            torch.zeros(3, 1, 1, 1),
        )


def test_compare_returns_the_largest_difference_of_all_batches():
    images = torch.zeros(205, 1, 1, 2)
    images[204, ..., 0] = 1  # in the last of the batches 1, 100, 100 and 4
    changed = lambda x: x.flatten(1) + 5e-5 * x.flatten(1)  # noqa: E731
    assert largest_difference(lambda x: x.flatten(1), changed, images) == pytest.approx(
        5e-5, rel=0.01
    )


def test_export_refuses_what_it_cannot_write(tmp_path):
    model = small("auxbn")
    with pytest.raises(ValueError, match="unknown format 'tflite'; known: torch-export, onnx"):
        export(model, "adv", tmp_path / "a", to="tflite", images=IMAGES)
    with pytest.raises(ValueError, match="needs a description of their network"):
        export(model, "adv", tmp_path / "a.safetensors", to="safetensors", images=IMAGES)
    with pytest.raises(ValueError, match=r"must end in \.onnx"):
        export(model, "adv", tmp_path / "a.pt2", to="onnx", images=IMAGES)
    with pytest.raises(RoutingError, match="no branch 'advs'"):
        export(model, "advs", tmp_path / "a.pt2", to="torch-export", images=IMAGES)
    assert not list(tmp_path.iterdir())


def test_onnx_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(ImportError, match=r'pip install "robustnorm\[export\]"'):
        export(small("auxbn"), "adv", tmp_path / "a.onnx", to="onnx", images=IMAGES)

"""Networks of any factory, with any norm."""

import pytest
import torch
from torch import nn

from robustnorm import convert, route
from robustnorm.models import NETWORKS
from robustnorm.models.building import build_network, check_output
from robustnorm.models.conversion import with_norm
from robustnorm.models.resnet import InputNormalization
from robustnorm.norms import NORMS
from robustnorm.norms.routing import branches_of
from robustnorm.system.errors import UsageError

OFFERED = {
    "norm": "bn",
    "branches": ("clean", "adv"),
    "num_classes": 7,
    "in_channels": 2,
    "width": 64,
    "mean": (0.5, 0.25),
    "std": (0.5, 2.0),
    "final_norm": True,
}
HERE = "tiny_networks"


@pytest.fixture(autouse=True)
def typed(monkeypatch):
    """The factories of tests/helpers/tiny_networks.py count as typed."""
    names = ("plain", "normed", "named", "centred", "layers", "fails", "a_tuple", "on_meta", "net")
    with NETWORKS.typed(*(f"{HERE}:{name}" for name in (*names, "ignores", "bare", "needs_depth"))):
        yield


def build(name, args=None, **changes):
    return build_network(f"{HERE}:{name}", OFFERED | changes, args)


def logits(network, images, branch="adv"):
    with route(network, branch), torch.no_grad():
        return network.eval()(images)


@pytest.mark.parametrize("norm", list(NORMS))
@pytest.mark.parametrize("name", ["plain", "normed", "named"])
def test_network_of_any_factory_trains_with_every_norm(name, norm):
    network = build(name, norm=norm)
    expected = NORMS[norm](1, ("clean", "adv"))
    assert branches_of(network) == branches_of(expected)
    kinds = {type(m).__name__ for m in network.modules() if hasattr(m, "eps")}
    if not branches_of(expected):
        assert kinds == {type(expected).__name__}
    with route(network, "adv"):
        network(torch.rand(4, 2, 6, 6)).square().sum().backward()
    assert all(parameter.grad is not None for parameter in network.parameters())


def test_factory_gets_what_it_takes_and_its_own_arguments_come_first():
    network = build("plain", {"width": 5, "num_classes": 3})
    assert network.network[0].weight.shape == (5, 2, 3, 3)
    assert network.network[-1].weight.shape == (3, 5)
    assert build("plain").network[0].weight.shape[0] == 8  # its own default, not the width offered


def test_norm_is_a_function_of_the_features_that_takes_what_batch_norm_takes():
    layer = build("normed", norm="auxbn").network[1]
    assert (layer.num_features, layer.eps, layer.momentum) == (8, 1e-3, 0.2)


def test_input_is_normalized_before_a_network_that_does_not_do_it():
    torch.manual_seed(0)
    network, images = build("plain"), torch.rand(3, 2, 6, 6)
    mean, std = torch.tensor([0.5, 0.25]), torch.tensor([0.5, 2.0])
    normalized = (images - mean.view(-1, 1, 1)) / std.view(-1, 1, 1)
    expected = logits(network.network, normalized)
    torch.testing.assert_close(logits(network, images), expected, rtol=0, atol=1e-6)  # rounding
    plain = build("plain", mean=(0.0, 0.0), std=(1.0, 1.0))
    assert isinstance(plain, nn.Sequential)  # nothing stands before it


@pytest.mark.parametrize("name", ["named", "centred"])
def test_input_is_not_normalized_twice(name):
    network = build(name)
    assert sum(isinstance(m, InputNormalization) for m in network.modules()) == (name == "named")
    assert "network.0.weight" not in network.state_dict()


def test_norm_with_branches_begins_with_what_the_network_computes():
    torch.manual_seed(0)
    network, images = build("plain"), torch.rand(3, 2, 6, 6)
    expected = logits(network, images)
    routed = with_norm(network, "saauxbn")
    for branch in ("clean", "adv"):
        found = logits(routed, images, branch)
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)  # one rounding


def test_with_norm_leaves_layers_without_batch_statistics():
    network = nn.Sequential(nn.BatchNorm2d(4), nn.GroupNorm(2, 4), nn.LayerNorm(3))
    with_norm(network, "auxbn")
    assert [type(layer).__name__ for layer in network] == [
        "RoutedBatchNorm2d",
        "GroupNorm",
        "LayerNorm",
    ]


@pytest.mark.parametrize("norm", ["modenorm", "auxbn"])
@pytest.mark.parametrize("tracks", [True, False])
def test_with_norm_takes_batch_norms_without_weights(norm, tracks):
    layer = nn.BatchNorm2d(3, affine=False, track_running_stats=tracks)
    network = with_norm(nn.Sequential(nn.Conv2d(2, 3, 3), layer), norm)
    with route(network, "adv"):
        assert network(torch.rand(4, 2, 6, 6)).shape == (4, 3, 4, 4)


@pytest.mark.parametrize("norm", ["modenorm", "auxbn"])
def test_with_norm_keeps_the_precision(norm):
    network = with_norm(nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3)).double(), norm)
    assert {parameter.dtype for parameter in network.parameters()} == {torch.float64}


def test_with_norm_refuses_vectors_where_a_norm_takes_images_alone():
    network = nn.Sequential(nn.BatchNorm2d(4), nn.BatchNorm1d(4))
    with pytest.raises(
        ValueError, match=r"'1' \(BatchNorm1d: 'modenorm' takes only features of images"
    ):
        with_norm(network, "modenorm")
    assert isinstance(network[0], nn.BatchNorm2d)


@pytest.mark.parametrize(
    ("name", "args", "norm", "message"),
    [
        (
            "plain",
            {"depth": 3},
            "bn",
            "has 'depth', which .*plain does not take; .* It takes num_cl",
        ),
        ("plain", {"widht": 3}, "bn", "did you mean 'width'"),
        ("plain", {"norm": "bn"}, "bn", "network_args cannot have norm; give --norm"),
        ("plain", {"width": "wide"}, "bn", r"cannot be built \(TypeError: .*from num_classes=7"),
        (
            "needs_depth",
            {},
            "bn",
            r"cannot be built \(TypeError: .*'depth'.*--network_args '{depth",
        ),
        ("fails", {}, "bn", r"cannot be built \(RuntimeError: no such luck\)"),
        ("layers", {}, "bn", "must return a torch.nn.Module, got a list"),
        ("net", {}, "bn", "is a Sequential|not a factory .it is a network"),
        ("ignores", {}, "auxbn", r"takes norm, but its layers have the branches \(\), not"),
        ("bare", {}, "auxbn", "cannot take the norm 'auxbn': it has no batch norm"),
        ("on_meta", {}, "bn", r"weights on the meta device, where they have no values \(network.0"),
    ],
)
def test_wrong_factory_is_refused_in_one_sentence(name, args, norm, message):
    with pytest.raises(UsageError, match=message) as refused:
        build(name, args, norm=norm)
    assert "\n" not in str(refused.value)


DATA = {"channels": 2, "image_size": [6, 6], "classes": list("abcdefg")}


@pytest.mark.parametrize(
    ("name", "args", "data", "message"),
    [
        ("a_tuple", {}, {}, "to be trained, it returns a tuple: return the logits alone"),
        ("plain", {"num_classes": 3}, {}, r"returns \(2, 3\) for 2 images: .*'{num_classes: 7}'"),
        ("plain", {}, {"channels": 3}, r"fails on images of shape \(2, 3, 6, 6\) .*; give images"),
    ],
)
def test_wrong_output_is_refused_in_one_sentence(name, args, data, message):
    network = build(name, args)
    with pytest.raises(UsageError, match=message) as refused:
        check_output(network, name, DATA | data, only_logits=True)
    assert "\n" not in str(refused.value)


def test_logits_in_a_tuple_serve_an_evaluation():
    check_output(build("a_tuple"), "a_tuple", DATA)


def test_check_of_the_output_changes_nothing():
    network = build("plain", norm="saauxbn")
    network.network[1].eval()
    before, state = [m.training for m in network.modules()], torch.random.get_rng_state()
    weights = {name: value.clone() for name, value in network.state_dict().items()}
    check_output(network, "plain", DATA)
    assert before == [m.training for m in network.modules()]
    assert torch.equal(state, torch.random.get_rng_state())
    assert all(torch.equal(value, weights[name]) for name, value in network.state_dict().items())


def test_registered_network_that_takes_no_norm_gets_it(monkeypatch):
    def own(num_classes):
        return nn.Sequential(nn.Conv2d(2, 4, 1), nn.BatchNorm2d(4))

    monkeypatch.setitem(NETWORKS._entries, "own", own)
    network = build_network("own", OFFERED | {"norm": "sabn"})
    expected = convert(own(7), "sabn")
    assert {n for n in network.state_dict() if n.startswith("network.")} == {
        f"network.{n}" for n in expected.state_dict()
    }

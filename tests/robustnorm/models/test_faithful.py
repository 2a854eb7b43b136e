"""A copy that differs from its network is detected and not used."""

import logging

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from robustnorm import evaluate, fold, resnet18
from robustnorm.evaluation.search import branches
from robustnorm.models.faithful import TOLERANCE, Standin, difference

IMAGES = torch.rand(6, 3, 8, 8, generator=torch.Generator().manual_seed(0))


class Network(nn.Module):
    """A convolution, a norm and a readout, with something between that tracing may lose."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8)
        self.readout = nn.Linear(8, 3)

    def between(self, features):
        return features

    def forward(self, images):
        features = F.relu(self.norm(self.conv(self.between(images))))
        return self.readout(features.mean((2, 3)))


class AsksForTensors(Network):
    def between(self, features):
        return features * 3 - 1 if isinstance(features, Tensor) else features


class StraightThrough(Network):
    """Rounds, with the gradient of the identity."""

    def between(self, features):
        with torch.no_grad():
            error = (features * 4).round() / 4 - features
        return features + error


class Detached(Network):
    def between(self, features):
        return features + ((features * 4).round() / 4 - features).detach()


class Autocast(Network):
    def between(self, features):
        with torch.autocast("cpu", torch.bfloat16):
            return F.conv2d(features, torch.eye(3)[:, :, None, None] * 1.0001).float()


def hooked():
    network = Network()
    network.register_forward_pre_hook(lambda module, inputs: (inputs[0] * 3 - 1,))
    return network


def hooked_inside():
    network = Network()
    network.conv.register_forward_hook(lambda module, inputs, output: output * 2)
    return network


BUILD = [Network, AsksForTensors, StraightThrough, Detached, Autocast, hooked, hooked_inside]


def build(make):
    torch.manual_seed(0)
    network = make()
    network.norm.running_mean.normal_()
    return network.eval()


@pytest.mark.parametrize("make", BUILD)
def test_fused_copy_has_the_logits_and_gradients_of_the_network(make):
    network = build(make)
    assert difference(fold(network, "any", fuse=True), network, IMAGES) == ""


@pytest.mark.parametrize("norm", ["bn", "saauxbn", "modenorm"])
def test_copy_of_a_residual_network_is_used(norm, caplog):
    torch.manual_seed(0)
    for branch in branches(resnet18(norm, width=4).eval()):
        branch.standin(IMAGES)
        assert not branch.standin.is_network
    assert not caplog.text


def test_difference_names_what_differs():
    network, other = build(Network), build(AsksForTensors)
    assert difference(other, network, IMAGES).startswith("logits that differ by")
    quantized = lambda images: network((images * 255).round() / 255)  # noqa: E731
    assert difference(quantized, network, IMAGES) == "gradients that differ by 1 of their length"
    assert difference(lambda images: network(images) * float("nan"), network, IMAGES)


def test_standin_that_differs_calls_the_network_and_says_so(caplog):
    network, other = build(Network), build(AsksForTensors)
    standin = Standin(other, network, other, "adv")
    with caplog.at_level(logging.WARNING, "robustnorm"):
        assert torch.equal(standin(IMAGES), network(IMAGES))
    assert standin.is_network
    assert "branch 'adv': a folded copy has logits that differ" in caplog.text


def test_standin_of_a_network_without_gradient_is_the_network():
    network, images = build(Network), IMAGES
    standin = Standin(network, lambda images: network(images).detach(), network, "adv")
    assert torch.equal(standin(images), network(images))
    assert standin.is_network


def test_evaluation_attacks_the_network_where_its_copy_differs(monkeypatch, caplog):
    """A copy that loses what comes before the first convolution."""
    network, lost = build(AsksForTensors), build(Network)
    labels = network(IMAGES).argmax(1)
    settings = {"epsilon": 0.3, "step_size": 0.1, "steps": (3,)}
    expected = evaluate(network, IMAGES, labels, **settings)
    monkeypatch.setattr("robustnorm.evaluation.search.fold", lambda *_, **__: lost)
    verdicts = evaluate(network, IMAGES, labels, **settings)
    assert "the network itself is attacked" in caplog.text
    for verdict, other in zip(verdicts, expected, strict=True):
        assert (verdict.correct == other.correct).all()
        assert verdict.disagreements == 0
        assert (verdict.searched, other.searched) == ("network", "copy")


def test_quicker_copy_that_differs_is_replaced_by_the_copy(caplog):
    network = build(Network)
    wrong = lambda images: 1.5 * network(images)  # noqa: E731
    standin = Standin(network, network, wrong, "adv", TOLERANCE["bf16"])
    assert torch.equal(standin(IMAGES), network(IMAGES))
    assert "a quicker copy has logits that differ" in caplog.text


def test_copy_in_bfloat16_is_used_and_one_that_lost_a_layer_is_not(monkeypatch, caplog):
    network = build(Network)
    (branch,) = branches(network, "bf16")
    logits = branch.standin(IMAGES)
    assert not caplog.text
    assert not torch.equal(logits, network(IMAGES))  # it is the one in bf16

    convert = nn.Conv2d.to

    def lose(module, *arguments, **options):
        with torch.no_grad():
            module.weight.mul_(-1)
        return convert(module, *arguments, **options)

    monkeypatch.setattr(nn.Conv2d, "to", lose)
    (branch,) = branches(network, "bf16")
    torch.testing.assert_close(branch.standin(IMAGES), network(IMAGES))
    assert "branch 'single': a quicker copy has" in caplog.text


class Chooses(Network):
    """Calls of torch's C++ code that read a tensor's memory."""

    def between(self, features):
        where = torch.where(features > 0.5, features, 0.0)
        return where + torch.where(torch.tensor(True), features, torch.nan)


class Makes(Network):
    def between(self, features):
        return features * torch.as_tensor(features).mean()


@pytest.mark.parametrize("make", [Chooses, Makes])
def test_tracing_ends_no_process(make):
    """A proxy that C++ took for a tensor was read as one: a segmentation fault."""
    network = build(make)
    assert difference(fold(network, "any", fuse=True), network, IMAGES) == ""
    assert isinstance(IMAGES, Tensor)
    assert not isinstance(1, Tensor)


@pytest.mark.filterwarnings("ignore:`torch.jit.(trace|trace_method|freeze)` is deprecated")
@pytest.mark.parametrize("finish", [lambda network: network, torch.jit.freeze])
def test_scripted_network_is_evaluated(finish):
    network = finish(torch.jit.trace(build(Network), IMAGES))
    labels = network(IMAGES).argmax(1)
    verdicts = evaluate(network, IMAGES, labels, steps=(1,))
    assert verdicts[0].accuracy == 1
    assert verdicts[1].searched == "network"

import math

import pytest
import torch

from robustnorm import resnet18
from robustnorm.norms import ModeNorm
from robustnorm.studies.gates import GateUsage, entropy, gates, mean_interval


def test_gates_are_the_softmax_of_the_spatial_means_by_hand():
    torch.manual_seed(0)
    model = resnet18(norm="modenorm", width=4, in_channels=1).eval()
    for layer in model.modules():
        if isinstance(layer, ModeNorm):
            torch.nn.init.normal_(layer.gate.weight)
    images = torch.rand(5, 1, 8, 8)
    inputs = {}
    for name, layer in model.named_modules():
        if isinstance(layer, ModeNorm):
            layer.register_forward_pre_hook(lambda m, x, name=name: inputs.update({name: x[0]}))
    with torch.no_grad():
        model(images)
    expected = {}
    for name, x in inputs.items():
        gate = model.get_submodule(name).gate
        scores = x.mean((2, 3)) @ gate.weight.T + gate.bias
        expected[name] = scores.exp() / scores.exp().sum(1, keepdim=True)
    found = gates(model, images.split(2))
    assert found.keys() == expected.keys()
    for name, value in found.items():
        torch.testing.assert_close(value, expected[name].detach())
        assert value.std(0).max() > 0  # the images are told apart, so the order counts


def test_gates_leave_no_hook_behind():
    model = resnet18(norm="modenorm", width=4).eval()
    gates(model, [torch.rand(1, 3, 8, 8)])
    assert not any(module._forward_hooks for module in model.modules())


def test_entropy_is_that_of_the_distribution():
    rows = torch.tensor([[0.25, 0.75], [0.5, 0.5], [1.0, 0.0]])
    expected = [-(0.25 * math.log2(0.25) + 0.75 * math.log2(0.75)), 1.0, 0.0]
    assert entropy(rows).tolist() == pytest.approx(expected)


def test_distance_is_the_mass_that_moved():
    usage = GateUsage(
        "bn1",
        clean=torch.tensor([[0.25, 0.75], [1.0, 0.0], [0.5, 0.5]]),
        adv=torch.tensor([[0.75, 0.25], [0.0, 1.0], [0.5, 0.5]]),
    )
    assert usage.distance().tolist() == [0.5, 1.0, 0.0]


def test_model_without_modenorm_is_refused():
    with pytest.raises(ValueError, match="ModeNorm"):
        gates(resnet18(norm="bn", width=4), [torch.rand(1, 3, 8, 8)])


def test_mean_of_one_image_has_no_interval():
    assert mean_interval(torch.tensor([0.5])) is None
    low, high = mean_interval(torch.tensor([0.25, 0.75]))
    half = 1.959964 * 0.5 / math.sqrt(2) / math.sqrt(2)  # standard deviation 0.5 / sqrt(2)
    assert (low, high) == pytest.approx((0.5 - half, 0.5 + half), abs=1e-6)

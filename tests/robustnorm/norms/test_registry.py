"""What every norm in NORMS must do; a new one is covered with no new line."""

import copy

import pytest
import torch
from torch import nn

from robustnorm import route
from robustnorm.norms import NORMS
from robustnorm.norms.routing import branches_of


@pytest.fixture(params=list(NORMS))
def layer(request):
    torch.manual_seed(0)
    return NORMS[request.param](6, ("clean", "adv"))


def run(layer, inputs, branch="adv"):
    with route(layer, branch):
        return layer(inputs)


def test_norm_keeps_shape_and_dtype(layer):
    output = run(layer, torch.rand(4, 6, 3, 5))
    assert output.shape == (4, 6, 3, 5)
    assert output.dtype == torch.float32


def test_norm_keeps_the_memory_format(layer):
    inputs = torch.rand(4, 6, 3, 5).contiguous(memory_format=torch.channels_last)
    assert run(layer, inputs).is_contiguous(memory_format=torch.channels_last)


def test_norm_standardizes_in_training(layer):
    nn.init.zeros_(layer.bias)
    output = run(layer, torch.randn(64, 6, 8, 8) * 5 + 3)
    # Scales start near 1 (sandwich: N(1, 0.02) twice); ModeNorm's gates are not quite equal.
    assert output.mean((0, 2, 3)).abs().max() < 0.05
    assert (output.std((0, 2, 3)) - 1).abs().max() < 0.2


def test_norm_gives_the_same_output_alone_as_in_a_batch_in_evaluation(layer):
    inputs = torch.rand(4, 6, 3, 5)
    run(layer, inputs * 7)
    layer.eval()
    together = run(layer, inputs)
    alone = torch.cat([run(layer, image[None]) for image in inputs])
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-6)  # one float32 rounding


def test_norm_changes_nothing_in_evaluation(layer):
    before = copy.deepcopy(layer.eval().state_dict())
    run(layer, torch.rand(4, 6, 3, 5))
    assert all(torch.equal(value, before[name]) for name, value in layer.state_dict().items())


def test_norm_uses_its_parameters_in_a_backward(layer):
    nn.init.normal_(layer.weight)
    for branch in ("clean", "adv"):
        run(layer, torch.rand(4, 6, 3, 5), branch).square().sum().backward()
    assert all(parameter.grad.isfinite().all() for parameter in layer.parameters())
    assert all(parameter.grad.any() for parameter in layer.parameters())


def test_norm_has_the_branches_it_was_given_or_none(layer):
    assert branches_of(layer) in (("clean", "adv"), ())


def test_unknown_norm_names_the_nearest_and_all_known():
    with pytest.raises(ValueError, match=r"unknown norm 'saauxbm'; did you mean 'saauxbn'\? Known"):
        NORMS.check("saauxbm")

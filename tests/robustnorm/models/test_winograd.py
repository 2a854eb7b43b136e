import pytest
import torch
from torch import nn
from torch.nn import functional as F

from robustnorm import fold, resnet18
from robustnorm.models.winograd import WinogradConv2d, use_winograd


@pytest.fixture
def layer():
    torch.manual_seed(0)
    return nn.Conv2d(5, 7, 3, padding=1, dtype=torch.float64)


@pytest.mark.parametrize("size", [(4, 4), (8, 12), (6, 8)], ids=str)
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=str)
def test_winograd_is_the_convolution_forward_and_backward(layer, size, layout):
    images = torch.rand(3, 5, *size, dtype=torch.float64).contiguous(memory_format=layout)
    images.requires_grad_()
    weights = torch.rand(3, 7, *size, dtype=torch.float64)
    found, expected = (
        WinogradConv2d(layer)(images),
        F.conv2d(images, layer.weight, layer.bias, padding=1),
    )
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    (gradient,) = torch.autograd.grad((found * weights).sum(), images)
    (wanted,) = torch.autograd.grad((expected * weights).sum(), images)
    torch.testing.assert_close(gradient, wanted, rtol=1e-12, atol=1e-12)


def test_winograd_takes_an_expanded_gradient(layer):
    """The gradient of a sum is one number read everywhere."""
    images = torch.rand(2, 5, 4, 4, dtype=torch.float64, requires_grad=True)
    (found,) = torch.autograd.grad(WinogradConv2d(layer)(images).sum(), images)
    (expected,) = torch.autograd.grad(layer(images).sum(), images)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize(("dtype", "most"), [(torch.float32, 4e-6), (torch.bfloat16, 3e-2)])
def test_winograd_rounds_as_documented(dtype, most):
    torch.manual_seed(0)
    convolution = nn.Conv2d(256, 256, 3, padding=1, bias=False)
    images = torch.rand(2, 256, 8, 8)
    exact = F.conv2d(images.double(), convolution.weight.double(), padding=1)
    found = WinogradConv2d(convolution).to(dtype)(images)
    assert found.dtype == dtype
    assert ((found - exact).norm() / exact.norm()).item() < most


def test_only_what_gains_is_replaced():
    kept = [
        nn.Conv2d(256, 256, 1),
        nn.Conv2d(256, 256, 3),
        nn.Conv2d(256, 256, 3, stride=2, padding=1),
        nn.Conv2d(256, 256, 3, padding=1, groups=2),
        nn.Conv2d(256, 256, 3, padding=2, dilation=2),
        nn.Conv2d(256, 256, 3, padding=1, padding_mode="reflect"),
        nn.Conv2d(128, 256, 3, padding=1),
        nn.Conv2d(256, 128, 3, padding=1),
    ]
    network = use_winograd(nn.Sequential(*kept, nn.Conv2d(256, 512, 3, padding=1)))
    assert list(network)[:-1] == kept
    assert type(network[-1]) is WinogradConv2d


def test_folded_network_computes_the_same_with_it():
    torch.manual_seed(0)
    network = resnet18("saauxbn", width=32).eval()
    images = torch.rand(4, 3, 32, 32)
    plain, changed = (fold(network, "adv", fuse=True) for _ in range(2))
    use_winograd(changed)
    assert sum(type(module) is WinogradConv2d for module in changed.modules()) == 3
    found, expected = changed(images), plain(images)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    assert not torch.equal(found, expected)

"""AdaIN and SaAdaIN against Eq. 9 and 10, one feature map at a time."""

import pytest
import torch
from torch import nn

from robustnorm.norms import AdaIN, SaAdaIN
from robustnorm.norms.instance import instance_statistics

EXACT = {"rtol": 0, "atol": 1e-12}  # float64 sums of at most 42 terms


def make_inputs():
    generator = torch.Generator().manual_seed(0)
    content = torch.randn(3, 5, 4, 6, generator=generator, dtype=torch.float64) * 2 + 1
    style = torch.randn(3, 5, 7, 6, generator=generator, dtype=torch.float64) - 3
    return content.requires_grad_(), style.requires_grad_()


def formula(content, style, weight, bias):
    rows = []
    for n in range(content.shape[0]):
        maps = []
        for c in range(content.shape[1]):
            x, s = content[n, c], style[n, c]
            normalized = (x - x.mean()) / ((x - x.mean()).square().mean() + 1e-5).sqrt()
            deviation = ((s - s.mean()).square().mean() + 1e-5).sqrt()
            maps.append(deviation * (weight[c] * normalized + bias[c]) + s.mean())
        rows.append(torch.stack(maps))
    return torch.stack(rows)


@pytest.mark.parametrize("sandwich", [False, True], ids=["AdaIN", "SaAdaIN"])
def test_adain_equals_formula(sandwich):
    content, style = make_inputs()
    layer = (SaAdaIN(5) if sandwich else AdaIN()).double()
    weight = torch.ones(5, dtype=torch.float64)
    bias = torch.zeros(5, dtype=torch.float64)
    tensors = [content, style]
    if sandwich:
        nn.init.normal_(layer.shared_weight)
        nn.init.normal_(layer.shared_bias)
        weight, bias = layer.shared_weight, layer.shared_bias
        tensors += [weight, bias]
    expected = formula(content, style, weight, bias)
    upstream = torch.linspace(-1, 1, expected.numel(), dtype=torch.float64).view_as(expected)

    output = layer(content, style)

    torch.testing.assert_close(output, expected, **EXACT)
    torch.testing.assert_close(
        torch.autograd.grad(output, tensors, upstream),
        torch.autograd.grad(expected, tensors, upstream),
        rtol=0,
        atol=1e-11,  # larger sums
    )


def test_adain_gives_the_mean_of_the_style():
    content, style = make_inputs()
    torch.testing.assert_close(AdaIN()(content, style).mean((2, 3)), style.mean((2, 3)), **EXACT)


def test_adain_gives_the_deviation_of_the_style():
    # The population's, but for the eps of a content whose deviation is about 2: 1e-5 / 8 of it.
    content, style = make_inputs()
    deviation = AdaIN()(content, style).std((2, 3), correction=0)
    torch.testing.assert_close(deviation, style.std((2, 3), correction=0), rtol=0, atol=1e-4)


def test_adain_of_content_in_its_own_style_is_the_content():
    content, _ = make_inputs()
    torch.testing.assert_close(AdaIN()(content, content), content, **EXACT)


def test_adain_takes_the_unbiased_variance_when_asked():
    content, style = make_inputs()
    mean, std = instance_statistics(content, unbiased=True)
    torch.testing.assert_close(std.square() - 1e-5, content.var((2, 3), keepdim=True), **EXACT)
    style_mean, style_std = instance_statistics(style, unbiased=True)
    expected = (content - mean) / std * style_std + style_mean
    torch.testing.assert_close(AdaIN(unbiased=True)(content, style), expected, **EXACT)
    torch.testing.assert_close(SaAdaIN(5, unbiased=True).double()(content, style), expected)


def test_adain_refuses_an_unbiased_variance_of_one_position():
    with pytest.raises(ValueError, match="needs H W of at least 2, got"):
        AdaIN(unbiased=True)(torch.zeros(1, 2, 1, 1), torch.zeros(1, 2, 1, 1))


def test_saadain_starts_as_adain():
    content, style = make_inputs()
    assert torch.equal(SaAdaIN(5).double()(content, style), AdaIN()(content, style))


def test_saadain_state_dict_round_trips():
    layer = SaAdaIN(5)
    nn.init.normal_(layer.shared_weight)
    other = SaAdaIN(5)
    other.load_state_dict(layer.state_dict())
    content, style = (tensor.float() for tensor in make_inputs())
    assert torch.equal(other(content, style), layer(content, style))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_adain_keeps_the_dtype_and_float32_statistics(dtype):
    content, style = (tensor.to(dtype) for tensor in make_inputs())
    output = AdaIN()(content, style)
    assert output.dtype == dtype
    expected = AdaIN()(content.float(), style.float())
    torch.testing.assert_close(output.float(), expected, rtol=0, atol=0.02)  # |y| < 8: 2^-9 of it


@pytest.mark.parametrize(
    ("content", "style", "message"),
    [
        ((2, 5, 3), (2, 5, 3, 3), r"must be \(N, C, H, W\), got \(2, 5, 3\)"),
        ((2, 5, 3, 3), (2, 4, 3, 3), "must agree in N and C"),
    ],
)
def test_adain_refuses_shapes_that_do_not_fit(content, style, message):
    with pytest.raises(ValueError, match=message):
        AdaIN()(torch.zeros(content), torch.zeros(style))


def test_saadain_refuses_another_channel_count():
    with pytest.raises(ValueError, match=r"SaAdaIN takes \(N, 4, H, W\)"):
        SaAdaIN(4)(torch.zeros(2, 5, 3, 3), torch.zeros(2, 5, 3, 3))

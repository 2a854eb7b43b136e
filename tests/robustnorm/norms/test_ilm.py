"""ILM against a written-out example, and ILM+IN against its formula."""

import pytest
import torch
from torch import nn

from robustnorm.norms import ILM, AdaIN, ILMAdaIN

# float64 sums of at most 16 * 12 terms
EXACT = {"rtol": 0, "atol": 1e-12}


def make_input(channels=32, n=3):
    generator = torch.Generator().manual_seed(0)
    return torch.randn(n, channels, 3, 4, generator=generator, dtype=torch.float64) * 2 + 1


def random_layer(channels=32, **options):
    torch.manual_seed(1)
    layer = ILM(channels, **options).double()
    for parameter in layer.parameters():
        nn.init.normal_(parameter)
    return layer


def formula(layer, x, correction):
    """Weight and bias of each sample and channel, one group at a time."""
    weights, biases = [], []
    for sample in x:
        groups = sample.split(16)
        count = groups[0].numel()
        mean = torch.stack([group.sum() / count for group in groups])
        variance = torch.stack(
            [(group - group.mean()).square().sum() / (count - correction) for group in groups]
        )
        hidden = [(layer.embed.weight @ key).clamp_min(0) for key in (variance, mean)]
        weight = 1 / (1 + (-layer.to_weight.weight @ hidden[0]).exp())
        bias = (layer.to_bias.weight @ hidden[1]).tanh()
        rows = [c // 16 for c in range(len(sample))]
        weights.append(weight[rows] + layer.weight)
        biases.append(bias[rows] + layer.bias)
    return torch.stack(weights), torch.stack(biases)


@pytest.mark.parametrize("unbiased", [False, True])
def test_ilm_equals_formula(unbiased):
    x = make_input().requires_grad_()
    layer = random_layer(unbiased=unbiased)
    weight, bias = layer(x)
    expected = formula(layer, x, int(unbiased))
    torch.testing.assert_close((weight[:, :, 0, 0], bias[:, :, 0, 0]), expected, **EXACT)

    tensors = [x, *layer.parameters()]
    upstream = torch.linspace(-1, 1, 96, dtype=torch.float64).view(3, 32)
    torch.testing.assert_close(
        torch.autograd.grad(
            (weight[:, :, 0, 0] * upstream + bias[:, :, 0, 0]).sum(), tensors, retain_graph=True
        ),
        torch.autograd.grad((expected[0] * upstream + expected[1]).sum(), tensors),
        rtol=0,
        atol=1e-11,  # larger sums
    )


def test_ilm_has_weight_one_and_a_half_and_bias_zero_when_its_matrices_are_zero():
    layer = ILM(32)
    nn.init.zeros_(layer.to_weight.weight)
    nn.init.zeros_(layer.to_bias.weight)
    weight, bias = layer(make_input().float())
    assert torch.equal(weight, torch.full((3, 32, 1, 1), 1.5))
    assert torch.equal(bias, torch.zeros(3, 32, 1, 1))


def test_ilm_permutes_with_the_samples():
    layer, x = random_layer(), make_input(n=4)
    order = torch.tensor([2, 0, 3, 1])
    for permuted, output in zip(layer(x[order]), layer(x), strict=True):
        torch.testing.assert_close(permuted, output[order], **EXACT)


# 512 channels are 32 groups, a sixteenth of which is 2; 1,024 are 64
@pytest.mark.parametrize(("channels", "hidden"), [(16, 2), (256, 2), (512, 2), (1024, 4)])
def test_ilm_embeds_as_its_authors_do(channels, hidden):
    layer = ILM(channels)
    shapes = {name: tuple(parameter.shape) for name, parameter in layer.named_parameters()}
    groups = channels // 16
    assert shapes == {
        "weight": (channels,),
        "bias": (channels,),
        "embed.weight": (hidden, groups),
        "to_weight.weight": (groups, hidden),
        "to_bias.weight": (groups, hidden),
    }


def test_ilmadain_equals_adain_with_its_affine_before_the_style():
    torch.manual_seed(2)
    layer = ILMAdaIN(32).double()
    content, style = make_input(), make_input() * 3 - 2
    weight, bias = layer.meta(content)
    style_mean = style.mean((2, 3), keepdim=True)
    style_std = (style.var((2, 3), correction=0, keepdim=True) + 1e-5).sqrt()
    normalized = (AdaIN()(content, style) - style_mean) / style_std
    expected = style_std * (weight * normalized + bias) + style_mean
    torch.testing.assert_close(layer(content, style), expected, **EXACT)


@pytest.mark.parametrize("channels", [8, 24])
def test_ilm_refuses_channels_that_make_no_groups(channels):
    with pytest.raises(ValueError, match=f"multiple of group_size 16, got {channels}"):
        ILM(channels)


def test_ilm_refuses_another_channel_count():
    with pytest.raises(ValueError, match=r"ILM takes \(N, 32, H, W\), got \(1, 16, 2, 2\)"):
        ILM(32)(torch.zeros(1, 16, 2, 2))

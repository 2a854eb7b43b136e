"""ModeNorm against Deecke et al.'s equations written out in float64, K passes over the input."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from robustnorm.norms import ModeNorm

# The one-pass variance is E[x^2] - E[x]^2: with |x| < 12 it loses two digits of float64's sixteen.
EXACT = {"rtol": 0, "atol": 1e-12}


def make_layer(num_modes):
    torch.manual_seed(0)
    layer = ModeNorm(5, num_modes).double()
    nn.init.normal_(layer.weight)
    nn.init.normal_(layer.bias)
    nn.init.normal_(layer.gate.weight)
    nn.init.normal_(layer.gate.bias)
    layer.running_mean.normal_()
    layer.running_second_moment.copy_(layer.running_mean.square() + torch.rand(num_modes, 5) + 0.1)
    return layer


def make_input(n=6):
    generator = torch.Generator().manual_seed(1)
    return torch.randn(n, 5, 3, 4, generator=generator, dtype=torch.float64) * 3 + 2


def formula(layer, inputs):
    gates = F.softmax(inputs.mean((2, 3)) @ layer.gate.weight.T + layer.gate.bias, dim=1)
    output = torch.zeros_like(inputs)
    running_mean, running_second = [], []
    for k in range(layer.num_modes):
        gate = gates[:, k]
        if layer.training:
            count = gate.sum()
            mean = torch.einsum("n,nc->c", gate, inputs.mean((2, 3))) / count
            centered = (inputs - mean[:, None, None]).square().mean((2, 3))
            var = torch.einsum("n,nc->c", gate, centered) / count
            second = torch.einsum("n,nc->c", gate, inputs.square().mean((2, 3))) / count
            running_mean.append(0.9 * layer.running_mean[k] + 0.1 * mean.detach())
            running_second.append(0.9 * layer.running_second_moment[k] + 0.1 * second.detach())
        else:
            mean = layer.running_mean[k]
            var = layer.running_second_moment[k] - mean.square()
            running_mean.append(mean)
            running_second.append(layer.running_second_moment[k])
        normalized = (inputs - mean[:, None, None]) / (var[:, None, None] + layer.eps).sqrt()
        output = output + gate[:, None, None, None] * normalized
    output = layer.weight[:, None, None] * output + layer.bias[:, None, None]
    return output, torch.stack(running_mean), torch.stack(running_second)


@pytest.mark.parametrize("num_modes", [1, 2, 4])
@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
def test_modenorm_equals_formula(training, num_modes):
    layer = make_layer(num_modes).train(training)
    inputs = make_input().requires_grad_()
    expected, running_mean, running_second = formula(layer, inputs)
    upstream = torch.linspace(-1, 1, expected.numel(), dtype=torch.float64).view_as(expected)
    tensors = [inputs, *layer.parameters()]
    expected_grads = torch.autograd.grad(expected, tensors, upstream)

    output = layer(inputs)
    grads = torch.autograd.grad(output, tensors, upstream)

    torch.testing.assert_close(output, expected, **EXACT)
    torch.testing.assert_close(grads, expected_grads, rtol=0, atol=1e-10)  # larger sums
    torch.testing.assert_close(layer.running_mean, running_mean, **EXACT)
    torch.testing.assert_close(layer.running_second_moment, running_second, **EXACT)
    assert layer.num_batches_tracked == int(training)


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_modenorm_has_the_formulas_second_derivative(memory_format, training):
    layer = make_layer(2).train(training)
    inputs = make_input(3).contiguous(memory_format=memory_format).requires_grad_()

    def penalty(output):
        # Linear in the output: what reaches the layer's backward is a constant.
        (grad,) = torch.autograd.grad(output[:, :, 1].sum(), inputs, create_graph=True)
        return torch.autograd.grad(grad.square().sum(), [inputs, layer.weight, layer.gate.weight])

    expected = penalty(formula(layer, inputs)[0])
    torch.testing.assert_close(penalty(layer(inputs)), expected, rtol=1e-9, atol=1e-9)


def test_modenorm_with_one_mode_equals_batch_norm():
    layer, peer = ModeNorm(5, num_modes=1).double(), nn.BatchNorm2d(5).double()
    torch.testing.assert_close(layer(make_input()), peer(make_input()), **EXACT)


def test_modenorm_passes_gradients_through_the_gate_in_evaluation():
    layer = make_layer(2).eval()
    inputs = make_input().requires_grad_()
    (through,) = torch.autograd.grad(layer(inputs).sum(), inputs)
    nn.init.zeros_(layer.gate.weight)
    (without,) = torch.autograd.grad(layer(inputs).sum(), inputs)
    # With a constant gate the derivative of y = a x + b is the same at each place of a channel.
    assert without.std((0, 2, 3)).max() < 1e-12
    assert through.std((0, 2, 3)).max() > 1e-3


def test_modenorm_evaluation_variance_is_never_negative():
    layer = ModeNorm(5).eval()
    layer.running_mean.fill_(3.0)  # second moment 1 < mean^2: what two averages may drift to
    output = layer(torch.rand(2, 5, 3, 3))
    assert output.isfinite().all()


def test_modenorm_keeps_running_statistics_when_not_tracking():
    layer = make_layer(2)
    before = {name: value.clone() for name, value in layer.named_buffers()}
    layer.track_running_stats = False
    layer(make_input())
    assert all(torch.equal(value, before[name]) for name, value in layer.named_buffers())


def test_modenorm_state_dict_holds_the_running_statistics_and_round_trips():
    layer = make_layer(2)
    layer(make_input())
    other = ModeNorm(5, 2).double()
    other.load_state_dict(layer.state_dict())
    assert {name: tuple(value.shape) for name, value in layer.state_dict().items()} == {
        "weight": (5,),
        "bias": (5,),
        "gate.weight": (2, 5),
        "gate.bias": (2,),
        "running_mean": (2, 5),
        "running_second_moment": (2, 5),
        "num_batches_tracked": (),
    }
    assert torch.equal(other.eval()(make_input()), layer.eval()(make_input()))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_modenorm_keeps_float32_statistics_under_autocast(dtype):
    layer, reference = ModeNorm(5), ModeNorm(5)
    reference.load_state_dict(layer.state_dict())
    inputs = make_input().to(dtype)
    with torch.autocast("cpu", dtype):
        output = layer(inputs)
    expected = reference(inputs.float())
    assert output.dtype == dtype
    for name, value in layer.named_buffers():
        torch.testing.assert_close(value, reference.get_buffer(name), rtol=1e-5, atol=1e-6)
    # |x|, |a x| and |b| are below 10 and each is rounded once, by 2^-9 of itself at most.
    torch.testing.assert_close(output.float(), expected, rtol=0, atol=0.06)


@pytest.mark.parametrize("shape", [(2, 5), (2, 4, 3, 3)])
def test_modenorm_refuses_other_shapes(shape):
    with pytest.raises(ValueError, match=r"ModeNorm takes \(N, 5, H, W\), got"):
        ModeNorm(5)(torch.zeros(shape))


def test_modenorm_refuses_a_single_value_per_channel_in_training():
    with pytest.raises(ValueError, match="more than one value per channel"):
        ModeNorm(5)(torch.zeros(1, 5, 1, 1))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [({"num_modes": 0}, "at least 1, got 0"), ({"momentum": 2.0}, r"in \[0, 1\], or .*got 2.0")],
)
def test_modenorm_refuses_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        ModeNorm(5, **arguments)

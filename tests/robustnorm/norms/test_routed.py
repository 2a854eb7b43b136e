"""The routed layers against formulas written out in float64, forward, backward and buffers."""

import itertools

import pytest
import torch
from torch import nn

from robustnorm import route
from robustnorm.norms import (
    CCBN,
    AuxBN,
    AuxStatBN,
    RoutedBatchNorm1d,
    RoutedBatchNorm2d,
    RoutedBatchNorm3d,
    SaAuxBN,
    SaBN,
)

CELLS = list(itertools.product(["shared", "split"], ["shared", "split", "sandwich"]))
BRANCHES = ("clean", "adv", "extra")
EXACT = {"rtol": 0, "atol": 1e-12}  # float64 sums of a few hundred terms, in another order


def make_layer(statistics, affine, branches=BRANCHES):
    layer = RoutedBatchNorm2d(5, branches, statistics=statistics, affine=affine).double()
    generator = torch.Generator().manual_seed(0)
    for tensor in (*layer.parameters(), layer.running_mean):
        tensor.data.copy_(torch.randn(tensor.shape, generator=generator, dtype=torch.float64))
    layer.running_var.copy_(torch.rand(layer.running_var.shape, generator=generator) + 0.5)
    return layer


def make_input(n=12):
    generator = torch.Generator().manual_seed(1)
    return torch.randn(n, 5, 3, 4, generator=generator, dtype=torch.float64) * 3 + 2


def formula(layer, inputs, rows):
    """Eq. 1, 2, 3 or 8, sample by sample, and the running statistics that must follow."""
    split = layer.statistics == "split"
    running_mean, running_var = layer.running_mean.clone(), layer.running_var.clone()
    outputs = torch.empty_like(inputs)
    for row in sorted(set(rows.tolist())):
        members = rows == row
        counted = inputs[members] if split else inputs
        place = row if split else ...
        if layer.training:
            mean, var = counted.mean((0, 2, 3)), counted.var((0, 2, 3), correction=0)
            unbiased = counted.var((0, 2, 3), correction=1)
            running_mean[place] = 0.9 * layer.running_mean[place] + 0.1 * mean.detach()
            running_var[place] = 0.9 * layer.running_var[place] + 0.1 * unbiased.detach()
        else:
            mean, var = layer.running_mean[place], layer.running_var[place]
        mean, var = mean[:, None, None], var[:, None, None]
        normalized = (inputs[members] - mean) / (var + 1e-5).sqrt()
        if layer.affine == "sandwich":
            normalized = (
                layer.shared_weight[:, None, None] * normalized + layer.shared_bias[:, None, None]
            )
        choice = ... if layer.affine == "shared" else row
        weight, bias = layer.weight[choice][:, None, None], layer.bias[choice][:, None, None]
        outputs[members] = weight * normalized + bias
    return outputs, running_mean, running_var


def selections():
    index = torch.tensor([2, 0, 1, 1, 0, 2, 2, 0, 1, 0, 1, 2])
    return [
        pytest.param("clean", torch.zeros(12, dtype=torch.int64), id="first"),
        pytest.param("adv", torch.ones(12, dtype=torch.int64), id="second"),
        pytest.param(("adv", "clean"), torch.tensor([1] * 6 + [0] * 6), id="halves"),
        pytest.param(index, index, id="per-sample"),
    ]


@pytest.mark.parametrize(("branch", "rows"), selections())
@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize(("statistics", "affine"), CELLS)
def test_routed_layer_equals_formula(statistics, affine, training, branch, rows):
    layer = make_layer(statistics, affine).train(training)
    inputs = make_input().requires_grad_()
    expected, running_mean, running_var = formula(layer, inputs, rows)
    upstream = torch.linspace(-1, 1, expected.numel(), dtype=torch.float64).view_as(expected)
    tensors = [inputs, *layer.parameters()]
    expected_grads = torch.autograd.grad(expected, tensors, upstream, materialize_grads=True)

    with route(layer, branch):
        output = layer(inputs)
    grads = torch.autograd.grad(output, tensors, upstream, materialize_grads=True)

    torch.testing.assert_close(output, expected, **EXACT)
    torch.testing.assert_close(grads, expected_grads, rtol=0, atol=1e-11)  # larger sums
    torch.testing.assert_close(layer.running_mean, running_mean, **EXACT)
    torch.testing.assert_close(layer.running_var, running_var, **EXACT)


@pytest.mark.parametrize(("branch", "rows"), selections())
@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize(
    ("kind", "shape"),
    [
        (RoutedBatchNorm1d, (5,)),
        (RoutedBatchNorm1d, (5, 12)),
        (RoutedBatchNorm3d, (5, 2, 3, 2)),
    ],
)
@pytest.mark.parametrize(("statistics", "affine"), CELLS)
def test_routed_layer_of_another_rank_is_the_2d_one_on_reshaped_input(
    statistics, affine, kind, shape, training, branch, rows
):
    peer = make_layer(statistics, affine).train(training)
    layer = kind(5, BRANCHES, statistics=statistics, affine=affine).double().train(training)
    layer.load_state_dict(peer.state_dict())
    inputs = make_input() if len(shape) > 1 else make_input()[..., :1, :1]
    upstream = torch.linspace(-1, 1, inputs.numel(), dtype=torch.float64).view_as(inputs)
    with route(peer, branch), route(layer, branch):
        expected, output = peer(inputs), layer(inputs.reshape(12, *shape))
    grads = torch.autograd.grad(
        output, list(layer.parameters()), upstream.view_as(output), materialize_grads=True
    )
    expected_grads = torch.autograd.grad(
        expected, list(peer.parameters()), upstream, materialize_grads=True
    )
    torch.testing.assert_close(output, expected.view_as(output), **EXACT)
    torch.testing.assert_close(grads, expected_grads, rtol=0, atol=1e-11)  # larger sums
    torch.testing.assert_close(layer.state_dict(), peer.state_dict(), **EXACT)


@pytest.mark.parametrize("branch", ["adv", ("clean", "adv"), torch.tensor([0, 1, 1, 0])])
@pytest.mark.parametrize(("statistics", "affine"), CELLS)
def test_routed_layer_without_running_statistics_uses_those_of_the_batch(
    statistics, affine, branch
):
    options = {"statistics": statistics, "affine": affine}
    layer = RoutedBatchNorm2d(5, ("clean", "adv"), track_running_stats=False, **options)
    peer = RoutedBatchNorm2d(5, ("clean", "adv"), **options)
    assert not list(layer.buffers())
    peer.load_state_dict(layer.state_dict(), strict=False)
    inputs = make_input(4).float()
    with route(layer, branch), route(peer, branch):
        expected = peer(inputs)
        assert torch.equal(layer(inputs), expected)
        assert torch.equal(layer.eval()(inputs), expected)


@pytest.mark.parametrize(("statistics", "affine"), CELLS)
def test_routed_layer_counts_batches_of_the_active_branch_only(statistics, affine):
    layer = make_layer(statistics, affine)
    with route(layer, "adv"):
        layer(make_input())
        layer.eval()(make_input())
    expected = [0, 1, 0] if statistics == "split" else 1
    assert layer.num_batches_tracked.tolist() == expected


@pytest.mark.parametrize(("statistics", "affine"), CELLS)
def test_routed_layer_keeps_running_statistics_when_not_tracking(statistics, affine):
    layer = make_layer(statistics, affine)
    before = {name: value.clone() for name, value in layer.named_buffers()}
    with route(layer, "clean"):
        tracked = layer(make_input())
        layer.load_state_dict(before, strict=False)
        layer.track_running_stats = False
        untracked = layer(make_input())
    assert torch.equal(tracked, untracked)
    assert all(torch.equal(value, before[name]) for name, value in layer.named_buffers())


def test_saauxbn_with_identity_affines_equals_two_batch_norms():
    layer, peers = SaAuxBN(5), {"clean": nn.BatchNorm2d(5), "adv": nn.BatchNorm2d(5)}
    nn.init.ones_(layer.weight)
    nn.init.ones_(layer.shared_weight)
    for batch in range(3):
        for branch, peer in peers.items():
            inputs = make_input().float() + batch + (branch == "adv")
            with route(layer, branch):
                assert torch.equal(layer(inputs), peer(inputs))
    for row, peer in enumerate(peers.values()):
        assert torch.equal(layer.running_mean[row], peer.running_mean)
        assert torch.equal(layer.running_var[row], peer.running_var)


@pytest.mark.parametrize(
    ("layer", "affine", "statistics"),
    [
        (AuxBN(4), {"weight": (2, 4), "bias": (2, 4)}, (2,)),
        (
            SaAuxBN(4),
            {"weight": (2, 4), "bias": (2, 4), "shared_weight": (4,), "shared_bias": (4,)},
            (2,),
        ),
        (AuxStatBN(4), {"weight": (4,), "bias": (4,)}, (2,)),
        (CCBN(4, 3), {"weight": (3, 4), "bias": (3, 4)}, ()),
        (
            SaBN(4, 3),
            {"weight": (3, 4), "bias": (3, 4), "shared_weight": (4,), "shared_bias": (4,)},
            (),
        ),
    ],
    ids=lambda value: type(value).__name__,
)
def test_named_cell_has_documented_parameters_and_buffers(layer, affine, statistics):
    assert {name: tuple(p.shape) for name, p in layer.named_parameters()} == affine
    assert {name: tuple(b.shape) for name, b in layer.named_buffers()} == {
        "running_mean": (*statistics, 4),
        "running_var": (*statistics, 4),
        "num_batches_tracked": statistics,
    }


def test_ccbn_gives_each_sample_the_affine_of_its_condition():
    layer = CCBN(5, num_conditions=10).double()
    nn.init.normal_(layer.weight)
    classes = torch.tensor([3, 9, 0, 3])
    with route(layer, classes):
        output = layer(make_input(4))
    expected, _, _ = formula(layer, make_input(4), classes)
    torch.testing.assert_close(output, expected, **EXACT)


def test_sandwich_starts_at_the_release_distribution():
    layer = SaAuxBN(20_000)
    # 20,000 draws: the mean is within 5 standard errors (0.02 / 141), the deviation within 5 %.
    for weight in (layer.weight[0], layer.weight[1], layer.shared_weight):
        assert abs(weight.mean().item() - 1) < 5 * 0.02 / 141
        assert abs(weight.std().item() - 0.02) < 0.001
    assert not layer.bias.any()
    assert not layer.shared_bias.any()


@pytest.mark.parametrize(("statistics", "affine"), CELLS)
def test_routed_layer_state_dict_round_trips(statistics, affine):
    layer = make_layer(statistics, affine)
    with route(layer, "extra"):
        layer(make_input())
    other = RoutedBatchNorm2d(5, BRANCHES, statistics=statistics, affine=affine).double()
    other.load_state_dict(layer.state_dict())
    with route(layer, "extra"), route(other, "extra"):
        assert torch.equal(other.eval()(make_input()), layer.eval()(make_input()))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("branch", ["adv", ("clean", "adv"), torch.tensor([0, 1, 1, 0])])
@pytest.mark.parametrize(("statistics", "affine"), CELLS)
def test_routed_layer_keeps_float32_statistics_under_autocast(statistics, affine, branch, dtype):
    layer = RoutedBatchNorm2d(5, ("clean", "adv"), statistics=statistics, affine=affine)
    reference = RoutedBatchNorm2d(5, ("clean", "adv"), statistics=statistics, affine=affine)
    reference.load_state_dict(layer.state_dict())
    inputs = make_input(4).to(dtype)
    with torch.autocast("cpu", dtype), route(layer, branch):
        output = layer(inputs)
    with route(reference, branch):
        expected = reference(inputs.float())
    assert output.dtype == dtype
    assert layer.running_mean.dtype == layer.running_var.dtype == torch.float32
    # The statistics see the same rounded values, so only the output is rounded.
    torch.testing.assert_close(layer.running_mean, reference.running_mean, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(layer.running_var, reference.running_var, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(output.float(), expected, rtol=0, atol=0.05)  # |output| < 5, 2^-8


@pytest.mark.parametrize("shape", [(2, 5), (2, 4, 3, 3), (5, 3, 3)])
def test_routed_layer_refuses_other_shapes(shape):
    layer = AuxBN(5)
    with route(layer, "clean"), pytest.raises(ValueError, match=r"takes \(N, 5, H, W\), got"):
        layer(torch.zeros(shape))


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        (
            RoutedBatchNorm1d(5),
            r"RoutedBatchNorm1d takes \(N, 5\) or \(N, 5, L\), got \(2, 5, 3, 3\)",
        ),
        (RoutedBatchNorm3d(5), r"takes \(N, 5, D, H, W\), got \(2, 5, 3, 3\)"),
    ],
)
def test_routed_layer_of_another_rank_refuses_2d_input(layer, message):
    with route(layer, "clean"), pytest.raises(ValueError, match=message):
        layer(torch.zeros(2, 5, 3, 3))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"branches": ()}, "one or more different names"),
        ({"branches": "adv"}, "one or more different names"),
        ({"branches": ("adv", "adv")}, "one or more different names"),
        ({"statistics": "both"}, "'shared' or 'split', got 'both'"),
        ({"affine": "none"}, "'shared', 'split' or 'sandwich', got 'none'"),
        ({"momentum": -0.1}, r"in \[0, 1\], or be None for a cumulative average, got -0.1"),
    ],
)
def test_routed_layer_refuses_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        RoutedBatchNorm2d(4, **arguments)


def test_ccbn_refuses_no_conditions():
    with pytest.raises(ValueError, match="num_conditions must be at least 1, got 0"):
        CCBN(4, 0)

"""The cases that torch tests its batch norms with, run over every norm of the registry."""

import copy
import io
import logging
import pickle

import pytest
import torch
from torch import nn
from torch.autograd import forward_ad
from torch.func import functional_call, jvp, vmap
from torch.utils.checkpoint import checkpoint

from robustnorm import RoutingError, bind, convert, fold, route
from robustnorm.norms import CCBN, NORMS, AuxBN, ModeNorm, RoutedBatchNorm2d, SaBN

# torch says so of its own use of it, too, in forward-mode derivatives.
pytestmark = pytest.mark.filterwarnings(
    "ignore:`torch.jit.(trace|trace_method|script)` is deprecated"
)

C = 4
ROUTED = [name for name in NORMS if name not in ("bn", "modenorm")]


def make(norm):
    torch.manual_seed(0)
    layer = NORMS[norm](C, ("clean", "adv"))
    for parameter in layer.parameters():
        parameter.data.add_(torch.randn_like(parameter) * 0.1)
    return layer


def make_input(n=3, **options):
    generator = torch.Generator().manual_seed(1)
    return (torch.randn(n, C, 2, 3, generator=generator) * 2 + 1).to(**options)


def statistics(layer):
    """The running statistics of the branch "adv", or of all, (2, ..., C)."""
    second = "running_var" if hasattr(layer, "running_var") else "running_second_moment"
    both = torch.stack([layer.running_mean, getattr(layer, second)])
    is_split = isinstance(layer, RoutedBatchNorm2d) and layer.statistics == "split"
    return both[:, 1] if is_split else both


@pytest.mark.parametrize("norm", NORMS)
def test_momentum_none_averages_all_batches_of_the_branch(norm):
    layer = make(norm)
    layer.momentum = None
    seen = []
    for batch in range(3):
        other = copy.deepcopy(layer)
        other.momentum = 1.0  # keeps the newest batch alone
        for target in (layer, other):
            bind(target, "adv")(make_input() * (batch + 1))
        seen.append(statistics(other))
    torch.testing.assert_close(statistics(layer), torch.stack(seen).mean(0), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("norm", NORMS)
def test_momentum_zero_counts_and_keeps_the_statistics(norm):
    layer = make(norm)
    layer.momentum = 0.0
    before = statistics(layer).clone()
    bind(layer, "adv")(make_input())
    assert torch.equal(statistics(layer), before)
    assert layer.num_batches_tracked.sum() == 1


@pytest.mark.parametrize("momentum", [None, 0.0, 0, 1.0])
def test_constructors_take_the_momentum_that_torch_takes(momentum):
    for layer in (AuxBN(C, momentum=momentum), CCBN(C, 2, momentum=momentum)):
        assert layer.momentum == momentum
    assert ModeNorm(C, momentum=momentum).momentum == SaBN(C, 2, momentum=momentum).momentum


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("norm", NORMS)
def test_half_precision_layer_computes_what_float32_does(norm, training, dtype):
    layer = make(norm).train(training)
    half = copy.deepcopy(layer).to(dtype)
    inputs = make_input(dtype=dtype).requires_grad_()
    output = bind(half, "adv")(inputs)
    output.sum().backward()
    assert output.dtype == inputs.grad.dtype == dtype
    expected = bind(layer, "adv")(inputs.detach().float())
    # Values below 4 and coefficients, each rounded to 8 bits.
    torch.testing.assert_close(output.float(), expected, rtol=0, atol=0.08)


@pytest.mark.parametrize("norm", NORMS)
def test_empty_batch_in_evaluation_stays_empty(norm):
    inputs = make_input(0).requires_grad_()
    output = bind(make(norm).eval(), "adv")(inputs)
    output.sum().backward()
    assert output.shape == inputs.grad.shape == (0, C, 2, 3)


@pytest.mark.parametrize("norm", NORMS)
def test_single_value_per_channel_is_refused_in_training_alone(norm):
    layer = make(norm)
    with pytest.raises(ValueError, match=r"more than (1|one) value per channel"):
        bind(layer, "adv")(torch.ones(1, C, 1, 1))
    assert bind(layer.eval(), "adv")(torch.ones(1, C, 1, 1)).shape == (1, C, 1, 1)


@pytest.mark.parametrize("norm", NORMS)
def test_vmap_in_evaluation_is_a_loop(norm):
    bound = bind(make(norm).eval(), "adv")
    inputs = torch.stack([make_input(), make_input() * 2])
    expected = torch.stack([bound(part) for part in inputs])
    torch.testing.assert_close(vmap(bound)(inputs), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("norm", NORMS)
def test_forward_derivative_is_that_of_the_backward(norm, training):
    layer = make(norm).double().train(training)
    layer.track_running_stats = not training
    bound = bind(layer, "adv")
    inputs, tangent = make_input(dtype=torch.float64), make_input(dtype=torch.float64).cos()
    upstream = make_input(dtype=torch.float64).sin()
    variable = inputs.clone().requires_grad_()
    (grad,) = torch.autograd.grad(bound(variable), variable, upstream)
    expected = (grad * tangent).sum()
    with forward_ad.dual_level():
        dual = bound(forward_ad.make_dual(inputs, tangent))
        through_dual = forward_ad.unpack_dual(dual).tangent
    for derivative in (through_dual, jvp(bound, (inputs,), (tangent,))[1]):
        torch.testing.assert_close((derivative * upstream).sum(), expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("norm", NORMS)
def test_functional_call_uses_the_given_tensors(norm):
    layer, other = make(norm).eval(), make(norm).eval()
    other.weight.data.mul_(2)
    before = copy.deepcopy(layer.state_dict())
    with route(layer, "adv"):
        output = functional_call(layer, other.state_dict(), (make_input(),))
    assert torch.equal(output, bind(other, "adv")(make_input()))
    assert all(torch.equal(value, before[name]) for name, value in layer.state_dict().items())


# Of the comparisons of shapes, which hold for every batch.
@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
@pytest.mark.parametrize("norm", NORMS)
def test_traced_layer_computes_the_same(norm):
    bound = bind(make(norm).eval(), "adv")
    traced = torch.jit.trace(bound, make_input(2))
    torch.testing.assert_close(traced(make_input(5)), bound(make_input(5)), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("norm", NORMS)
def test_exported_layer_computes_the_same(norm):
    bound = bind(make(norm).eval(), "adv")
    exported = torch.export.export(bound, (make_input(),), strict=False).module()
    torch.testing.assert_close(exported(make_input()), bound(make_input()), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("norm", ROUTED)
def test_script_is_refused_and_folded_network_scripts(norm):
    model = nn.Sequential(make(norm)).eval()
    with pytest.raises(RoutingError, match=r"TorchScript cannot compile .*script `fold\(model"):
        torch.jit.script(model)
    scripted = torch.jit.script(fold(model, "adv"))
    torch.testing.assert_close(scripted(make_input()), bind(model, "adv")(make_input()))


@pytest.mark.parametrize("norm", NORMS)
def test_checkpointed_layer_has_the_same_gradients(norm):
    layer = make(norm)
    gradients = []
    for recompute in (False, True):
        twin = copy.deepcopy(layer)
        bound, inputs = bind(twin, "adv"), make_input().requires_grad_()
        output = checkpoint(bound, inputs, use_reentrant=False) if recompute else bound(inputs)
        output.pow(3).sum().backward()
        gradients.append([inputs.grad, *(p.grad for p in twin.parameters())])
    torch.testing.assert_close(gradients[0], gradients[1], rtol=0, atol=0)


@pytest.mark.parametrize("norm", NORMS)
def test_pickled_and_saved_layers_compute_the_same(norm):
    layer = make(norm).eval()
    file = io.BytesIO()
    torch.save(layer.state_dict(), file)
    file.seek(0)
    loaded = NORMS[norm](C, ("clean", "adv")).eval()
    loaded.load_state_dict(torch.load(file, weights_only=True))
    expected = bind(layer, "adv")(make_input())
    for other in (loaded, pickle.loads(pickle.dumps(layer))):
        assert torch.equal(bind(other, "adv")(make_input()), expected)


@pytest.mark.parametrize("norm", NORMS)
def test_state_from_before_batches_were_counted_is_loaded(norm):
    layer = make(norm)
    state = dict(layer.state_dict())  # a plain dict has no version
    del state["num_batches_tracked"]
    other = NORMS[norm](C, ("clean", "adv"))
    other.load_state_dict(state)
    assert not other.num_batches_tracked.any()
    assert torch.equal(bind(other, "adv")(make_input()), bind(layer, "adv")(make_input()))


@pytest.mark.parametrize("branch", ["clean", "adv"])
@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("norm", ROUTED)
def test_state_of_a_plain_batch_norm_starts_every_branch(norm, affine, branch, caplog):
    torch.manual_seed(0)
    plain = nn.Sequential(nn.BatchNorm2d(C, affine=affine))
    plain(make_input())
    if affine:
        nn.init.normal_(plain[0].weight)
        nn.init.normal_(plain[0].bias)
    routed = nn.Sequential(make(norm))
    state = plain.state_dict()
    if not affine and norm in ("ccbn", "sabn"):  # nothing there says that it has no branches
        with pytest.raises(RuntimeError, match=r"Missing key.*weight"):
            routed.load_state_dict(state)
        return
    with caplog.at_level(logging.WARNING, "robustnorm"):
        routed.load_state_dict(state)
    assert "0: every branch starts from the batch norm without branches" in caplog.text
    assert state.keys() == plain.state_dict().keys()
    expected = plain.eval()(make_input())
    torch.testing.assert_close(bind(routed.eval(), branch)(make_input()), expected)


@pytest.mark.parametrize("momentum", [None, 0.0, 0.3])
@pytest.mark.parametrize("norm", ROUTED)
def test_converted_layer_goes_on_averaging_as_before(norm, momentum):
    plain = nn.BatchNorm2d(C, momentum=momentum)
    plain(make_input())
    routed = convert(copy.deepcopy(plain), norm)
    assert routed.momentum == momentum
    for layer in (plain, bind(routed, "adv")):
        layer(make_input() * 3)
    expected = torch.stack([plain.running_mean, plain.running_var])
    torch.testing.assert_close(statistics(routed), expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("norm", ROUTED)
def test_copied_layer_outside_a_route_is_refused(norm):
    with pytest.raises(RoutingError):
        copy.deepcopy(make(norm))(make_input())

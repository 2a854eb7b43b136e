import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import prune

from robustnorm import RoutingError, convert, fold, preact_resnet18, resnet18, route
from robustnorm.norms import NORMS, RoutedBatchNorm2d
from robustnorm.norms.routing import RoutedLayer, routed_layers

ROUTED = [name for name in NORMS if isinstance(NORMS[name](1, ("a",)), RoutedBatchNorm2d)]
# Folding multiplies two affines in float32 before it applies them; protocol: at most 1e-5.
CLOSE = {"rtol": 0, "atol": 1e-5}


def trained(model):
    """Gives a network statistics and affines as training leaves them: all different."""
    generator = torch.Generator().manual_seed(0)
    for module in model.modules():
        if isinstance(module, (RoutedBatchNorm2d, nn.BatchNorm2d)):
            for name, tensor in (*module.named_parameters(), *module.named_buffers()):
                if tensor.is_floating_point():
                    noise = torch.rand(tensor.shape, generator=generator)
                    positive = "weight" in name or "var" in name
                    tensor.data.copy_(noise + 0.5 if positive else noise - 0.5)
    return model.eval()


IMAGES = torch.rand(4, 3, 16, 16, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("branch", ["clean", "adv"])
@pytest.mark.parametrize("norm", ROUTED)
@pytest.mark.parametrize("factory", [resnet18, preact_resnet18])
def test_fold_keeps_the_logits_of_the_branch(factory, norm, branch):
    torch.manual_seed(0)
    model = trained(factory(norm=norm, width=4))
    folded = fold(model, branch)
    with route(model, branch):
        expected = model(IMAGES)
    assert not routed_layers(folded)
    # Logits of a network with such affines reach 30: the bound is on logits of order one.
    scale = expected.abs().max().clamp_min(1)
    torch.testing.assert_close(folded(IMAGES) / scale, expected / scale, **CLOSE)


def test_fold_leaves_the_model_alone():
    model = trained(resnet18(norm="saauxbn", width=4))
    before = copy.deepcopy(model.state_dict())
    folded = fold(model, "adv")
    for parameter in folded.parameters():
        parameter.data.zero_()
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert len(routed_layers(model)) == 20


@pytest.mark.parametrize("training", [True, False])
def test_fold_keeps_the_mode(training):
    folded = fold(resnet18(norm="auxbn", width=4).train(training), "clean")
    assert {module.training for module in folded.modules()} == {training}


def test_fold_copies_a_model_without_routed_layers():
    model = trained(resnet18(norm="modenorm", width=4))
    folded = fold(model, "adv")
    assert folded is not model
    assert torch.equal(folded(IMAGES), model(IMAGES))


def test_fold_of_a_single_layer_is_a_batch_norm():
    layer = trained(NORMS["saauxbn"](5))
    assert type(fold(layer, "adv")) is nn.BatchNorm2d


class Scale(RoutedLayer):
    """A routed layer of a user's own."""

    def __init__(self):
        super().__init__(("clean", "adv"))
        self.scales = nn.Parameter(torch.tensor([2.0, 3.0]))

    def forward(self, inputs):
        return inputs * self.scales[self.selection(len(inputs))]


def test_fold_binds_routed_layers_that_are_no_batch_norms():
    model = nn.Sequential(nn.Conv2d(3, 3, 1), NORMS["auxbn"](3), Scale()).eval()
    for branch in ("clean", "adv"):
        with route(model, branch):
            expected = model(IMAGES)
        torch.testing.assert_close(fold(model, branch)(IMAGES), expected, **CLOSE)
        torch.testing.assert_close(fold(model, branch, fuse=True)(IMAGES), expected, **CLOSE)


def test_fold_refuses_an_unknown_branch():
    with pytest.raises(RoutingError, match="no branch 'advs'"):
        fold(resnet18(norm="auxbn", width=4), "advs")


@pytest.mark.parametrize("norm", ROUTED)
@pytest.mark.parametrize("factory", [resnet18, preact_resnet18])
def test_convert_keeps_the_logits_on_every_branch(factory, norm):
    torch.manual_seed(0)
    model = trained(factory(norm="bn", width=4))
    expected = model(IMAGES)
    converted = convert(model, norm, branches=("clean", "linf", "l2"))
    assert converted is model
    assert not any(type(module) is nn.BatchNorm2d for module in model.modules())
    for branch in ("clean", "linf", "l2"):
        with route(model, branch):
            torch.testing.assert_close(model(IMAGES), expected, **CLOSE)


@pytest.mark.parametrize("norm", ROUTED)
def test_fold_undoes_convert(norm):
    model = trained(resnet18(norm="bn", width=4))
    before = copy.deepcopy(model.state_dict())
    folded = fold(convert(model, norm), "adv")
    assert all(torch.equal(value, before[name]) for name, value in folded.state_dict().items())


def test_convert_keeps_a_shared_layer_shared():
    shared = nn.BatchNorm2d(3)
    model = nn.ModuleDict({"a": shared, "b": nn.Sequential(shared, shared)})
    convert(model, "auxbn")
    assert model["a"] is model["b"][0] is model["b"][1]


def test_convert_keeps_mode_and_frozen_parameters():
    model = nn.Sequential(nn.BatchNorm2d(3).eval().requires_grad_(False), nn.BatchNorm2d(3))
    frozen, learning = convert(model, "saauxbn")
    assert (frozen.training, learning.training) == (False, True)
    assert not any(parameter.requires_grad for parameter in frozen.parameters())
    assert all(parameter.requires_grad for parameter in learning.parameters())


@pytest.mark.parametrize("frozen", ["weight", "bias"])
def test_convert_keeps_what_of_weight_and_bias_is_frozen(frozen):
    layer = nn.BatchNorm2d(3)
    getattr(layer, frozen).requires_grad_(False)
    learns = {name: p.requires_grad for name, p in convert(layer, "saauxbn").named_parameters()}
    assert learns == {
        name: not name.endswith(frozen)
        for name in ("weight", "bias", "shared_weight", "shared_bias")
    }


def test_convert_keeps_eps_momentum_and_dtype():
    layer = convert(nn.BatchNorm2d(3, eps=1e-3, momentum=0.2).double(), "saauxbn")
    assert (layer.eps, layer.momentum, layer.weight.dtype) == (1e-3, 0.2, torch.float64)


def test_convert_starts_a_layer_without_affine_at_the_identity():
    model = nn.Sequential(nn.BatchNorm2d(3, affine=False)).eval()
    expected = model(IMAGES)
    with route(convert(model, "saauxbn"), "adv"):
        torch.testing.assert_close(model(IMAGES), expected, **CLOSE)


@pytest.mark.parametrize(
    ("model", "norm", "message"),
    [
        (nn.Sequential(nn.BatchNorm2d(3)), "modenorm", "a norm with branches, got 'modenorm'"),
        (nn.Sequential(nn.BatchNorm2d(3)), "bn", "a norm with branches, got 'bn'"),
        (nn.Sequential(nn.BatchNorm2d(3)), "auxbm", "did you mean 'auxbn'"),
        (nn.Sequential(nn.Conv2d(3, 3, 1)), "auxbn", "found no batch norm"),
        (nn.Sequential(nn.GroupNorm(1, 3)), "auxbn", "found no batch norm"),
    ],
)
def test_convert_refuses_and_changes_nothing(model, norm, message):
    before = list(model.children())
    with pytest.raises(ValueError, match=message):
        convert(model, norm)
    assert list(model.children()) == before


@pytest.mark.parametrize("build", [resnet18, preact_resnet18])
@pytest.mark.parametrize("norm", ["bn", "saauxbn"])
def test_fused_network_computes_the_same(build, norm):
    torch.manual_seed(0)
    model = build(norm, width=4).double()
    for layer in model.modules():
        if hasattr(layer, "running_var"):
            layer.running_mean.normal_()
            layer.running_var.uniform_(0.5, 2)
    images = torch.rand(3, 3, 16, 16, dtype=torch.float64)
    folded, fused = fold(model.eval(), "adv"), fold(model, "adv", fuse=True)
    torch.testing.assert_close(fused(images), folded(images), rtol=1e-10, atol=1e-10)
    # A norm that comes before the convolution, after a sum, stays.
    left = sum(isinstance(module, nn.BatchNorm2d) for module in fused.modules())
    assert left == (0 if build is resnet18 else 9)


class Branching(nn.Module):
    """Depends on values, so that tracing cannot follow it."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)

    def forward(self, images):
        return self.norm(self.conv(images)) if images.sum() > 0 else images


class Twice(nn.Module):
    """Uses a convolution's output twice, a norm after two convolutions, a convolution twice."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c, self.d = (nn.Conv2d(3, 3, 1) for _ in range(4))
        self.norms = nn.ModuleList(nn.BatchNorm2d(3) for _ in range(3))

    def forward(self, images):
        seen = self.a(images)
        shared = self.norms[0](seen) + seen
        shared = self.norms[1](self.b(shared)) + self.norms[1](self.c(shared))
        return self.norms[2](self.d(shared)) + self.d(images)


@pytest.mark.parametrize("build", [Branching, Twice])
def test_fuse_leaves_alone_what_does_not_belong_to_one_convolution(build):
    torch.manual_seed(0)
    model = build().double()
    for layer in model.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.running_mean.normal_()
            layer.running_var.uniform_(0.5, 2)
    images = torch.rand(2, 3, 4, 4, dtype=torch.float64)
    fused = fold(model.eval(), "adv", fuse=True)
    torch.testing.assert_close(fused(images), model(images), rtol=1e-12, atol=1e-12)
    norms = sum(isinstance(module, nn.BatchNorm2d) for module in model.modules())
    assert sum(isinstance(module, nn.BatchNorm2d) for module in fused.modules()) == norms


class Read(nn.Module):
    """Needs the values before the ReLU once more, in two places out of three."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)

    def forward(self, images):
        features = self.norm(self.conv(images))
        total = features + images
        return F.relu(features) - features + F.relu(images) + F.relu(total + images)


def test_fuse_puts_a_relu_in_place_only_where_nobody_else_reads_its_input():
    torch.manual_seed(0)
    model = Read().double().eval()
    images = torch.randn(2, 3, 4, 4, dtype=torch.float64, requires_grad=True)
    before, fused = images.detach().clone(), fold(model, "adv", fuse=True)
    expected, output = model(images), fused(images)
    torch.testing.assert_close(output, expected, rtol=1e-12, atol=1e-12)
    gradients = [torch.autograd.grad(value.sum(), images)[0] for value in (output, expected)]
    torch.testing.assert_close(*gradients, rtol=1e-12, atol=1e-12)
    assert torch.equal(images, before)
    in_place = [n.kwargs["inplace"] for n in fused.graph.nodes if n.target is F.relu]
    assert in_place == [False, False, True]


def test_fuse_refuses_a_model_in_train_mode():
    with pytest.raises(ValueError, match=r"evaluation mode: model\.eval\(\)"):
        fold(resnet18("bn", width=4), "adv", fuse=True)


def test_fold_copies_a_pruned_network():
    torch.manual_seed(0)
    model = trained(nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)))
    for fuse in (False, True):
        for name in ("weight", "bias"):
            prune.random_unstructured(model[0], name, 0.5)
        expected = model(IMAGES)
        assert not model[0].weight.is_leaf
        folded = fold(model, "adv", fuse=fuse)
        torch.testing.assert_close(folded(IMAGES), expected, **CLOSE)
        model[0].weight_orig.data.zero_()  # the copy shares nothing
        torch.testing.assert_close(folded(IMAGES), expected, **CLOSE)
        model = trained(nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)))


@pytest.mark.parametrize("where", ["root", "convolution", "norm"])
@pytest.mark.parametrize("kind", ["forward", "forward_pre"])
@pytest.mark.parametrize("fuse", [False, True])
@pytest.mark.parametrize("norm", ["bn", "saauxbn"])
def test_fold_keeps_what_hooks_do(norm, fuse, kind, where):
    torch.manual_seed(0)
    layer = NORMS[norm](4, ("clean", "adv"))
    model = trained(nn.Sequential(nn.Conv2d(3, 4, 1), layer, nn.ReLU()))
    module = {"root": model, "convolution": model[0], "norm": layer}[where]
    if kind == "forward":
        module.register_forward_hook(lambda module, inputs, output: output * 2 + 1)
    else:
        module.register_forward_pre_hook(lambda module, inputs: (inputs[0] * 2 + 1,))
    with route(model, "adv"):
        expected = model(IMAGES)
    torch.testing.assert_close(fold(model, "adv", fuse=fuse)(IMAGES), expected, **CLOSE)

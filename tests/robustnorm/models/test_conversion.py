"""convert on whole module trees: every rank, other libraries' networks, and what it must refuse."""

import copy

import pytest
import torch
from torch import nn

from robustnorm import convert, fold, resnet18, route
from robustnorm.norms import RoutedBatchNorm1d, RoutedBatchNorm2d, RoutedBatchNorm3d
from robustnorm.norms.routing import routed_layers

# Rounding in float32; the bound is the one that convert promises.
CLOSE = {"rtol": 0, "atol": 1e-5}
RANKS = [
    (nn.Conv1d, nn.BatchNorm1d, RoutedBatchNorm1d, (4, 3, 9)),
    (nn.Conv2d, nn.BatchNorm2d, RoutedBatchNorm2d, (4, 3, 5, 5)),
    (nn.Conv3d, nn.BatchNorm3d, RoutedBatchNorm3d, (4, 3, 4, 4, 4)),
]


def randomize(model):
    """Gives every batch norm statistics and an affine of its own."""
    torch.manual_seed(0)
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            for tensor in (module.running_mean, module.bias):
                if tensor is not None:
                    nn.init.normal_(tensor, 0, 0.1)
            for tensor in (module.running_var, module.weight):
                if tensor is not None:
                    nn.init.uniform_(tensor, 0.5, 2)
    return model.eval()


@torch.no_grad()
def outputs(model, inputs):
    output = model(inputs)
    return output["out"] if isinstance(output, dict) else output


def assert_every_branch_gives(model, inputs, expected, branches=("clean", "adv")):
    scale = expected.abs().max().clamp_min(1)  # the bound is on outputs of order one
    for branch in branches:
        with route(model, branch):
            torch.testing.assert_close(outputs(model, inputs) / scale, expected / scale, **CLOSE)


@pytest.mark.parametrize("options", [{}, {"affine": False}, {"track_running_stats": False}])
@pytest.mark.parametrize(("conv", "norm", "routed", "shape"), RANKS)
def test_convert_and_fold_keep_the_outputs_in_every_rank(conv, norm, routed, shape, options):
    model = randomize(nn.Sequential(conv(3, 4, 2), nn.Sequential(norm(4, **options), nn.ReLU())))
    inputs = torch.rand(shape)
    expected = outputs(model, inputs)
    convert(model, "saauxbn", branches=("clean", "linf", "l2"))
    assert type(model[1][0]) is routed
    assert_every_branch_gives(model, inputs, expected, ("clean", "linf", "l2"))
    folded = fold(model, "l2")
    assert type(folded[1][0]) is norm
    torch.testing.assert_close(outputs(folded, inputs), expected, **CLOSE)


@pytest.mark.parametrize(("conv", "norm", "routed", "shape"), RANKS)
def test_fold_fuses_in_every_rank(conv, norm, routed, shape):
    model = randomize(nn.Sequential(conv(3, 4, 2), norm(4))).double()
    inputs = torch.rand(shape).double()
    expected = outputs(model, inputs)
    fused = fold(convert(model, "auxbn"), "adv", fuse=True)
    assert not any(isinstance(module, norm) for module in fused.modules())
    torch.testing.assert_close(outputs(fused, inputs), expected, rtol=0, atol=1e-12)  # float64


def test_convert_takes_a_batch_norm_of_vectors():
    model = randomize(nn.Sequential(nn.Linear(6, 4), nn.BatchNorm1d(4)))
    inputs = torch.rand(5, 6)
    expected = outputs(model, inputs)
    assert_every_branch_gives(convert(model, "sabn"), inputs, expected)


def test_convert_keeps_a_torchvision_resnet50_and_its_other_weights(torchvision_library):
    from torchvision.models import resnet50

    model = randomize(resnet50())
    inputs = torch.rand(2, 3, 64, 64)
    expected = outputs(model, inputs)
    others = {
        name: parameter.data_ptr()
        for name, parameter in model.named_parameters()
        if ".bn" not in name and "downsample.1" not in name and not name.startswith("bn")
    }
    assert convert(model, "saauxbn") is model
    assert len(routed_layers(model)) == 53
    after = {name: parameter.data_ptr() for name, parameter in model.named_parameters()}
    assert {name: after[name] for name in others} == others
    assert_every_branch_gives(model, inputs, expected)


def test_convert_keeps_a_torchvision_segmentation_network(torchvision_library):
    from torchvision.models.segmentation import lraspp_mobilenet_v3_large

    model = randomize(lraspp_mobilenet_v3_large(weights=None, weights_backbone=None))
    inputs = torch.rand(1, 3, 32, 32)
    expected = outputs(model, inputs)
    assert_every_branch_gives(convert(model, "auxbn"), inputs, expected)


def test_convert_changes_only_the_layers_that_are_named():
    model = resnet18("bn", width=4)
    convert(model, "auxbn", layers=("layer1.*", "*.downsample.1"), keep=("layer1.0.bn2",))
    routed = {name for name, m in model.named_modules() if isinstance(m, RoutedBatchNorm2d)}
    assert routed == {"layer1.0.bn1", "layer1.1.bn1", "layer1.1.bn2"} | {
        f"layer{i}.0.downsample.1" for i in (2, 3, 4)
    }


def test_convert_keeps_a_shared_layer_that_any_of_its_names_keeps():
    shared = nn.BatchNorm2d(3)
    model = nn.ModuleDict({"a": shared, "b": shared, "c": nn.BatchNorm2d(3)})
    convert(model, "auxbn", keep=("b",))
    assert model["a"] is model["b"] is shared
    assert isinstance(model["c"], RoutedBatchNorm2d)


def test_convert_goes_on_where_it_left_off():
    model = convert(resnet18("bn", width=4), "auxbn", layers=("layer1.*",))
    first = routed_layers(model)
    convert(model, "auxbn")
    assert routed_layers(model)[1:5] == first
    assert len(routed_layers(model)) == 20


class Renamed(nn.BatchNorm2d):
    pass


class BatchNormAct2d(nn.BatchNorm2d):
    """As timm's: drop-out and activation behind the norm."""

    def __init__(self, num_features):
        super().__init__(num_features)
        self.drop, self.act = nn.Identity(), nn.SiLU()

    def forward(self, inputs):
        return self.act(self.drop(super().forward(inputs)))


def hooked():
    layer = nn.BatchNorm2d(3)
    layer.register_forward_hook(lambda module, inputs, output: output + 1)
    return layer


def frozen():
    from torchvision.ops import FrozenBatchNorm2d

    return FrozenBatchNorm2d(3)


def quantized():
    from torch.ao.nn.quantized import BatchNorm2d

    return BatchNorm2d(3)


def other_branches():
    return convert(nn.BatchNorm2d(3), "auxbn", branches=("clean", "linf"))


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda: nn.GroupNorm(1, 3), "GroupNorm: it has no batch statistics"),
        (lambda: nn.LayerNorm(3), "LayerNorm: it has no batch statistics"),
        (lambda: nn.InstanceNorm2d(3), "InstanceNorm2d: it has no batch statistics"),
        (lambda: nn.SyncBatchNorm(3), "SyncBatchNorm: its statistics span a process group"),
        (frozen, "FrozenBatchNorm2d: it is not torch's BatchNorm1d, 2d or 3d"),
        (quantized, "BatchNorm2d: it is not torch's BatchNorm1d, 2d or 3d"),
        (lambda: nn.LazyBatchNorm2d(), "LazyBatchNorm2d: it is not torch's"),
        (lambda: Renamed(3), "Renamed: it is not torch's BatchNorm1d, 2d or 3d"),
        (lambda: BatchNormAct2d(3), "BatchNormAct2d: it is not torch's"),  # not timm's own
        (hooked, "BatchNorm2d: it has hooks"),
        (other_branches, r"it already has branches, \('clean', 'linf'\)"),
    ],
)
def test_convert_names_what_it_cannot_convert_and_changes_nothing(
    torchvision_library, make, reason
):
    model = nn.Sequential(nn.BatchNorm2d(3), make(), nn.Sequential(make()))
    before = list(model.modules())
    with pytest.raises(ValueError, match=rf"'1' \(.*{reason}\S*.*'2\.0' \(") as caught:
        convert(model, "auxbn")
    assert "keep=('1', '2.0'); nothing was changed" in str(caught.value)
    assert all(a is b for a, b in zip(before, model.modules(), strict=True))
    convert(model, "auxbn", keep=("1", "2.0"))
    assert isinstance(model[0], RoutedBatchNorm2d)
    assert list(model.modules())[2:] == before[2:]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"layers": ("layer5.*",)}, r"'layer5\.\*' names no normalization layer .* bn1, layer1"),
        ({"keep": ("head",)}, "'head' names no normalization layer"),
        ({"keep": ("*",)}, "found no batch norm to convert"),
    ],
)
def test_convert_refuses_patterns_that_leave_nothing(options, message):
    model = resnet18("bn", width=4)
    with pytest.raises(ValueError, match=message):
        convert(model, "auxbn", **options)
    assert not routed_layers(model)


def test_convert_keeps_the_activation_of_a_timm_layer(monkeypatch):
    monkeypatch.setattr(BatchNormAct2d, "__module__", "timm.layers.norm_act")
    model = randomize(nn.Sequential(BatchNormAct2d(3)))
    inputs = torch.rand(4, 3, 5, 5)
    expected = outputs(model, inputs)
    keys = set(model.state_dict())
    assert_every_branch_gives(convert(model, "auxbn"), inputs, expected)
    assert set(model.state_dict()) == keys
    torch.testing.assert_close(outputs(fold(model, "adv"), inputs), expected, **CLOSE)


def test_convert_keeps_half_precision_and_the_state_of_a_layer_without_statistics():
    layer = nn.BatchNorm2d(3, track_running_stats=False).to(torch.bfloat16)
    state = copy.deepcopy(layer.state_dict())
    routed = convert(layer, "auxbn")
    assert routed.weight.dtype == torch.bfloat16
    assert list(routed.state_dict()) == list(state)

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from robustnorm import RoutingError, convert, fold, resnet18
from robustnorm.norms import NORMS
from robustnorm.norms.routing import routed_layers
from robustnorm.studies.swap import swapped


def make_layer(norm):
    torch.manual_seed(0)
    layer = NORMS[norm](3, ("clean", "adv")).double().eval()
    for tensor in (*layer.parameters(), layer.running_mean):
        torch.nn.init.normal_(tensor)
    layer.running_var.uniform_(0.5, 2)
    return layer


def row(tensor, index):
    return tensor if tensor.dim() == 1 else tensor[index]


@pytest.mark.parametrize("norm", ["auxbn", "saauxbn", "auxstatbn", "ccbn", "sabn"])
@pytest.mark.parametrize("statistics", [0, 1])
@pytest.mark.parametrize("affine", [0, 1])
def test_swapped_layer_is_batch_norm_with_those_numbers(norm, statistics, affine):
    layer, images = make_layer(norm), torch.rand(2, 3, 4, 4, dtype=torch.float64)
    names = ("clean", "adv")
    found = swapped(layer, statistics=names[statistics], affine=names[affine])(images)
    expected = F.batch_norm(
        images,
        row(layer.running_mean, statistics),
        row(layer.running_var, statistics),
        eps=layer.eps,
    )
    channels = (None, slice(None), None, None)
    if layer.affine == "sandwich":
        expected = expected * layer.shared_weight[channels] + layer.shared_bias[channels]
    weight, bias = row(layer.weight, affine), row(layer.bias, affine)
    torch.testing.assert_close(found, expected * weight[channels] + bias[channels])


def test_swapped_network_leaves_the_model_and_equals_fold_when_nothing_is_swapped():
    torch.manual_seed(0)
    model = resnet18(norm="saauxbn", width=4).eval()
    for layer in routed_layers(model):
        layer.running_mean.normal_()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    images = torch.rand(2, 3, 8, 8)
    with torch.no_grad():
        own = swapped(model, statistics="adv", affine="adv")(images)
        other = swapped(model, statistics="clean", affine="adv")(images)
        assert torch.equal(own, fold(model, "adv")(images))
    assert not torch.allclose(own, other)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize(
    ("plain", "shape"), [(nn.BatchNorm1d, (5, 3)), (nn.BatchNorm1d, (5, 3, 2)),
                         (nn.BatchNorm3d, (5, 3, 2, 2, 2))]
)  # fmt: skip
def test_layers_of_any_rank_are_swapped(plain, shape):
    torch.manual_seed(0)
    model = convert(nn.Sequential(plain(3)), "auxbn").eval()
    for tensor in (*model.parameters(), model[0].running_mean):
        torch.nn.init.normal_(tensor)
    images = torch.rand(shape)
    expected = F.batch_norm(
        images,
        *(values[0] for values in (model[0].running_mean, model[0].running_var)),
        *(values[1] for values in (model[0].weight, model[0].bias)),
        eps=model[0].eps,
    )
    found = swapped(model, statistics="clean", affine="adv")(images)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("wrong", [{"statistics": "l2"}, {"affine": "l2"}])
def test_unknown_branch_is_refused(wrong):
    with pytest.raises(RoutingError, match="no branch 'l2'"):
        swapped(make_layer("auxbn"), **({"statistics": "adv", "affine": "adv"} | wrong))


def test_layers_without_running_statistics_have_none_to_exchange():
    batch_norm = nn.BatchNorm2d(4, track_running_stats=False)
    network = convert(nn.Sequential(nn.Conv2d(3, 4, 3), batch_norm), "auxbn").eval()
    images = torch.rand(4, 3, 6, 6)
    found = swapped(network, statistics="clean", affine="adv")(images)
    torch.testing.assert_close(found, fold(network, "adv")(images))

import pytest
import torch
from torch import nn

from robustnorm import preact_resnet18, resnet18, route
from robustnorm.norms import NORMS, AuxBN
from robustnorm.norms.routing import routed_layers

FACTORIES = [resnet18, preact_resnet18]


def count(model):
    return sum(parameter.numel() for parameter in model.parameters())


def test_resnet18_has_the_known_number_of_parameters():
    # He et al.'s ResNet-18 with a 3x3 stem and 10 classes, as the whole literature counts it.
    assert count(resnet18(norm="bn", width=64)) == 11_173_962


def test_preact_resnet18_has_the_known_number_of_parameters():
    # The pre-activation ResNet-18 of the robust-overfitting study (its shortcuts have no norm).
    assert count(preact_resnet18(norm="bn", width=64)) == 11_172_170


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("factory", FACTORIES)
def test_network_runs_with_every_norm(factory, norm):
    model = factory(norm=norm, width=4, num_classes=7)
    with route(model, "adv"):
        assert model(torch.rand(2, 3, 16, 16)).shape == (2, 7)


@pytest.mark.parametrize(("factory", "norms"), [(resnet18, 20), (preact_resnet18, 17)])
def test_network_has_a_norm_at_each_place(factory, norms):
    assert len(routed_layers(factory(norm="auxbn", width=4))) == norms


def test_preact_resnet18_without_final_norm_is_the_release_variant():
    model = preact_resnet18(norm="auxbn", width=4, final_norm=False)
    assert len(routed_layers(model)) == 16
    with route(model, "clean"):
        assert model(torch.rand(2, 3, 8, 8)).shape == (2, 10)


def test_network_takes_a_callable_norm():
    model = resnet18(norm=lambda num_features: nn.GroupNorm(2, num_features), width=4)
    assert sum(isinstance(module, nn.GroupNorm) for module in model.modules()) == 20


def test_network_passes_branches_on():
    model = resnet18(norm="saauxbn", width=4, branches=("clean", "linf", "l2"))
    assert {layer.branches for layer in routed_layers(model)} == {("clean", "linf", "l2")}


@pytest.mark.parametrize("factory", FACTORIES)
def test_imagenet_stem_divides_the_resolution_by_thirty_two(factory):
    model = factory(norm="bn", width=4, stem="imagenet")
    features = model.layer4(
        model.layer3(
            model.layer2(model.layer1(model.maxpool(model.conv1(torch.rand(2, 3, 64, 64)))))
        )
    )
    assert features.shape == (2, 32, 2, 2)


def test_network_normalizes_its_input():
    torch.manual_seed(0)
    raw = resnet18(norm="bn", width=4, mean=(0, 0, 0), std=(1, 1, 1)).eval()
    normalized = resnet18(norm="bn", width=4, mean=(0.1, 0.2, 0.3), std=(0.5, 0.6, 0.7)).eval()
    normalized.load_state_dict(raw.state_dict(), strict=False)
    images = torch.rand(2, 3, 8, 8)
    mean, std = torch.tensor([0.1, 0.2, 0.3]), torch.tensor([0.5, 0.6, 0.7])
    by_hand = (images - mean.view(3, 1, 1)) / std.view(3, 1, 1)
    assert torch.equal(normalized(images), raw(by_hand))


def test_network_with_mean_zero_and_std_one_leaves_images_alone():
    model = resnet18(norm="bn", width=4, mean=(0, 0, 0), std=(1, 1, 1))
    assert isinstance(model.normalize, nn.Identity)


def test_network_of_one_channel_leaves_images_alone_by_default():
    assert isinstance(resnet18(norm="bn", width=4, in_channels=1).normalize, nn.Identity)


def test_resnet18_state_dict_has_torchvision_names():
    names = set(resnet18(norm="bn", width=4, stem="imagenet").state_dict())
    assert {
        "conv1.weight",
        "bn1.running_mean",
        "layer2.0.downsample.0.weight",
        "layer2.0.downsample.1.running_var",
        "layer4.1.conv2.weight",
        "fc.bias",
    } <= names


def test_post_activation_block_is_relu_of_sum():
    torch.manual_seed(0)
    block = resnet18(norm="bn", width=4).eval().layer2[0]
    features = torch.randn(2, 4, 6, 6)
    inner = torch.relu(block.bn1(block.conv1(features)))
    expected = torch.relu(block.bn2(block.conv2(inner)) + block.downsample(features))
    assert torch.equal(block(features), expected)


@pytest.mark.parametrize("stage", ["layer1", "layer2"])
def test_pre_activation_block_projects_the_normalized_features_only(stage):
    torch.manual_seed(0)
    block = getattr(preact_resnet18(norm="bn", width=4).eval(), stage)[0]
    features = torch.randn(2, 4, 6, 6)
    normalized = torch.relu(block.bn1(features))
    inner = block.conv2(torch.relu(block.bn2(block.conv1(normalized))))
    shortcut = features if stage == "layer1" else block.downsample(normalized)
    torch.testing.assert_close(block(features), inner + shortcut, rtol=0, atol=0)


@pytest.mark.parametrize("factory", FACTORIES)
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"norm": "saauxbm"}, "unknown norm 'saauxbm'; did you mean 'saauxbn'"),
        ({"stem": "mnist"}, "stem must be 'cifar' or 'imagenet', got 'mnist'"),
        ({"mean": (0.5,)}, "one value for each of 3 channels"),
        ({"std": (0.0, 1.0, 1.0)}, "std must be at least 0.001"),
    ],
)
def test_network_refuses_bad_arguments(factory, arguments, message):
    with pytest.raises(ValueError, match=message):
        factory(**({"width": 4} | arguments))


def test_branches_stay_apart_through_the_whole_network():
    """One branch's statistics must not affect the other."""
    model = resnet18(norm="saauxbn", width=4)
    clean_before = [layer.running_mean[0].clone() for layer in routed_layers(model)]
    with route(model, "adv"):
        model(torch.rand(8, 3, 8, 8))
    for layer, before in zip(routed_layers(model), clean_before, strict=True):
        assert isinstance(layer, nn.Module)
        assert not isinstance(layer, AuxBN)
        assert torch.equal(layer.running_mean[0], before)
        assert not torch.equal(layer.running_mean[1], before)

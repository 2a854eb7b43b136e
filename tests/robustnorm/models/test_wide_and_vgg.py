"""Wide ResNets and VGG-16 against counts worked out here, and with every norm."""

import pytest
import torch

from robustnorm import route
from robustnorm.models import NETWORKS
from robustnorm.models.vgg import vgg16
from robustnorm.models.wideresnet import WideResNet
from robustnorm.norms import NORMS
from robustnorm.norms.routing import branches_of


def count(network):
    return sum(p.numel() for p in network.parameters())


def wide_parameters(depth, widen, classes=10):
    """Convolutions, two numbers a channel for each norm, and the linear layer."""
    total, before = 9 * 3 * 16, 16
    for channels in (16 * widen, 32 * widen, 64 * widen):
        for block in range((depth - 4) // 6):
            inner = before if block == 0 else channels
            total += 2 * inner + 9 * inner * channels + 2 * channels + 9 * channels * channels
            total += inner * channels * (inner != channels)
        before = channels
    return total + 2 * before + before * classes + classes


@pytest.mark.parametrize(("depth", "published"), [(28, 36_479_194), (34, 46_160_474)])
def test_wide_resnets_have_the_published_parameters(depth, published):
    with torch.device("meta"):
        network = NETWORKS[f"wideresnet{depth}_10"]()
    assert count(network) == wide_parameters(depth, 10) == published


def test_vgg16_has_the_parameters_of_its_thirteen_convolutions():
    widths = [64, 64, 128, 128, 256, 256, 256, 512, 512, 512, 512, 512, 512]
    pairs = zip([3, *widths], widths, strict=False)
    expected = sum(9 * before * channels + 3 * channels for before, channels in pairs) + 5130
    with torch.device("meta"):
        assert count(NETWORKS["vgg16"]()) == expected == 14_728_266


@pytest.mark.parametrize("norm", list(NORMS))
@pytest.mark.parametrize("build", ["wide", "vgg"])
def test_networks_run_with_every_norm_and_three_classes_of_grey_images(build, norm):
    torch.manual_seed(0)
    options = {"norm": norm, "num_classes": 3, "in_channels": 1}
    network = WideResNet(10, 1, **options) if build == "wide" else vgg16(width=2, **options)
    images = torch.rand(4, 1, 32, 32)
    names = branches_of(network)
    outputs = []
    for name in names or (None,):
        if name is None:
            outputs.append(network(images))
        else:
            with route(network, name):
                outputs.append(network(images))
    assert all(output.shape == (4, 3) and output.isfinite().all() for output in outputs)
    sum(output.sum() for output in outputs).backward()
    assert all(p.grad is not None for p in network.parameters())


def test_first_block_projects_where_the_channels_change_and_only_there():
    network = WideResNet(16, 2)
    names = [name for name, _ in network.named_parameters() if "convShortcut" in name]
    assert names == [f"block{i}.layer.0.convShortcut.weight" for i in (1, 2, 3)]


@pytest.mark.parametrize("depth", [4, 12, 27])
def test_other_depths_are_refused(depth):
    with pytest.raises(ValueError, match=rf"depth must be 10, 16, .*got {depth}"):
        WideResNet(depth, 1)


def test_vgg16_refuses_images_that_it_cannot_halve():
    with pytest.raises(ValueError, match="needs at least 32 pixels"):
        vgg16(width=2)(torch.rand(1, 3, 28, 28))

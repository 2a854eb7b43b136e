"""Each layout in LOADERS against a network that computes like its original code."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from robustnorm import convert, preact_resnet18, route
from robustnorm.exchange.loaders import LOADERS, load_released

# The same operations on the same numbers, in another order for the sandwich.
CLOSE = {"rtol": 0, "atol": 1e-5}
IMAGES = torch.rand(3, 3, 16, 16, generator=torch.Generator().manual_seed(1))


class SplitNorm(nn.BatchNorm2d):
    """timm's: the first set is the layer itself, the others stand in ``aux_bn``."""

    active = 0

    def __init__(self, channels, sets=2):
        super().__init__(channels)
        self.aux_bn = nn.ModuleList(nn.BatchNorm2d(channels) for _ in range(sets - 1))

    def forward(self, features):
        return self.aux_bn[self.active - 1](features) if self.active else super().forward(features)


class MixNorm(nn.BatchNorm2d):
    """The AdvProp port's: clean is the layer itself, adversarial is ``aux_bn``."""

    active = 0

    def __init__(self, channels):
        super().__init__(channels)
        self.aux_bn = nn.BatchNorm2d(channels)

    def forward(self, features):
        return self.aux_bn(features) if self.active else super().forward(features)


class DualNorm(nn.Module):
    """Once-for-all adversarial training's."""

    active = 0

    def __init__(self, channels):
        super().__init__()
        self.BN_c, self.BN_a = nn.BatchNorm2d(channels), nn.BatchNorm2d(channels)

    def forward(self, features):
        return (self.BN_a if self.active else self.BN_c)(features)


class ReleaseAux(nn.Module):
    """The Sandwich release's AuxBN."""

    active = 0

    def __init__(self, channels):
        super().__init__()
        self.bn_list = nn.ModuleList(nn.BatchNorm2d(channels) for _ in range(2))

    def forward(self, features):
        return self.bn_list[self.active](features)


class ReleaseSandwich(nn.Module):
    """The Sandwich release's SaAuxBN: rows of ``embed`` are the branches', the last is shared."""

    active = 0

    def __init__(self, channels):
        super().__init__()
        self.bn_list = nn.ModuleList(nn.BatchNorm2d(channels, affine=False) for _ in range(2))
        self.embed = nn.Embedding(3, 2 * channels)

    def forward(self, features):
        output = self.bn_list[self.active](features)
        for row in (2, self.active):
            scale, shift = self.embed.weight[row].chunk(2)
            output = scale[:, None, None] * output + shift[:, None, None]
        return output


class Block(nn.Module):
    def __init__(self, norm):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(4, 4, 3, padding=1, bias=False), norm(4)

    def forward(self, features):
        return F.relu(self.bn1(self.conv1(features)) + features)


class SmallResNet(nn.Module):
    """Named as torchvision's; every tree of that kind reads alike."""

    def __init__(self, norm):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 4, 3, bias=False), norm(4)
        self.layer1 = nn.Sequential(Block(norm), Block(norm))
        self.fc = nn.Linear(4, 5)

    def forward(self, images):
        features = self.layer1(F.relu(self.bn1(self.conv1(images))))
        return self.fc(features.mean((2, 3)))


class ReleaseBlock(nn.Module):
    def __init__(self, before, after, stride, norm):
        super().__init__()
        self.bn1, self.bn2 = norm(before), norm(after)
        self.conv1 = nn.Conv2d(before, after, 3, stride, 1, bias=False)
        self.conv2 = nn.Conv2d(after, after, 3, 1, 1, bias=False)
        if stride > 1:
            self.shortcut = nn.Sequential(nn.Conv2d(before, after, 1, stride, bias=False))

    def forward(self, features):
        active = F.relu(self.bn1(features))
        shortcut = self.shortcut(active) if hasattr(self, "shortcut") else features
        return self.conv2(F.relu(self.bn2(self.conv1(active)))) + shortcut


class ReleaseNormalization(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("mean", torch.tensor([0.485, 0.456, 0.406]))
        self.register_buffer("std", torch.tensor([0.229, 0.224, 0.225]))

    def forward(self, images):
        return (images - self.mean[:, None, None]) / self.std[:, None, None]


class ReleaseResNet(nn.Module):
    """The Sandwich release's network, of width 4 instead of 64."""

    def __init__(self, norm):
        super().__init__()
        self.normal = ReleaseNormalization()
        self.conv1 = nn.Conv2d(3, 4, 3, 1, 1, bias=False)
        widths = [4, 4, 8, 16, 32]
        for i in range(1, 5):
            first = ReleaseBlock(widths[i - 1], widths[i], 1 if i == 1 else 2, norm)
            second = ReleaseBlock(widths[i], widths[i], 1, norm)
            setattr(self, f"layer{i}", nn.Sequential(first, second))
        self.linear = nn.Linear(32, 10)

    def forward(self, images):
        features = self.conv1(self.normal(images))
        features = self.layer4(self.layer3(self.layer2(self.layer1(features))))
        return self.linear(features.mean((2, 3)))


def randomized(model):
    """Gives every tensor of a norm values as training leaves them: all different."""
    torch.manual_seed(0)
    for name, value in model.state_dict().items():
        if value.is_floating_point() and ("bn" in name or "BN" in name):
            positive = "weight" in name or "var" in name
            value.copy_(torch.rand_like(value) + (0.5 if positive else -0.5))
        elif "num_batches" in name:
            value.fill_(len(name))
    return model.eval()


def sets(peer, active):
    for module in peer.modules():
        if hasattr(module, "active"):
            module.active = active
    return peer


def plain(norm="auxbn", branches=("clean", "adv")):
    return convert(SmallResNet(nn.BatchNorm2d), norm, branches)


def release(norm):
    statistics = {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}  # the state's must replace them
    return preact_resnet18(norm, width=4, final_norm=False, **statistics)


CASES = {
    "timm-splitbn": ("timm-splitbn", lambda: SmallResNet(SplitNorm), plain),
    "advprop-mixbn": ("advprop-mixbn", lambda: SmallResNet(MixNorm), plain),
    "oat-dualbn": ("oat-dualbn", lambda: SmallResNet(DualNorm), plain),
    "release-auxbn": (
        "sandwich-release",
        lambda: ReleaseResNet(ReleaseAux),
        lambda: release("auxbn"),
    ),
    "release-saauxbn": (
        "sandwich-release",
        lambda: ReleaseResNet(ReleaseSandwich),
        lambda: release("saauxbn"),
    ),
    "release-bn": (
        "sandwich-release",
        lambda: ReleaseResNet(nn.BatchNorm2d),
        lambda: release("bn"),
    ),
}


@pytest.mark.parametrize("prefix", ["", "module."])
@pytest.mark.parametrize("case", CASES)
def test_layout_gives_the_logits_of_its_own_code_on_each_branch(case, prefix):
    layout, make_peer, make_model = CASES[case]
    peer, model = randomized(make_peer()), make_model().eval()
    load_released(model, {prefix + k: v for k, v in peer.state_dict().items()}, layout)
    for active, branch in enumerate(("clean", "adv")):
        with route(model, branch):
            torch.testing.assert_close(model(IMAGES), sets(peer, active)(IMAGES), **CLOSE)
    if case != "release-bn":
        assert not torch.allclose(sets(peer, 0)(IMAGES), sets(peer, 1)(IMAGES), atol=1e-2)


def test_every_layout_is_tested():
    assert {layout for layout, _, _ in CASES.values()} | {"plain"} == set(LOADERS)


@pytest.mark.parametrize("prefix", ["", "module."])
def test_plain_layout_loads_our_own_names(prefix):
    peer, model = randomized(plain()), plain().eval()
    load_released(model, {prefix + k: v for k, v in peer.state_dict().items()}, "plain")
    for branch in ("clean", "adv"):
        with route(model, branch), route(peer, branch):
            assert torch.equal(model(IMAGES), peer(IMAGES))


def test_timm_layout_reads_more_than_two_sets():
    peer = randomized(SmallResNet(lambda channels: SplitNorm(channels, sets=3)))
    model = plain(branches=("clean", "linf", "l2")).eval()
    load_released(model, peer.state_dict(), "timm-splitbn", ("clean", "linf", "l2"))
    for active, branch in enumerate(("clean", "linf", "l2")):
        with route(model, branch):
            torch.testing.assert_close(model(IMAGES), sets(peer, active)(IMAGES), **CLOSE)


def test_layout_keeps_the_number_of_batches_of_each_set():
    peer = SmallResNet(MixNorm)
    peer.bn1.num_batches_tracked.fill_(3)
    peer.bn1.aux_bn.num_batches_tracked.fill_(5)
    model = plain()
    load_released(model, peer.state_dict(), "advprop-mixbn")
    assert model.bn1.num_batches_tracked.tolist() == [3, 5]


def without(name):
    return lambda state: state.pop(name)


@pytest.mark.parametrize(
    ("model", "change", "message"),
    [
        (plain, without("fc.bias"), r"\(missing: fc\.bias\); nothing was loaded"),
        (plain, lambda state: state.update(a=torch.ones(1)), r"\(not in the network: a\)"),
        (plain, without("bn1.aux_bn.bias"), r"bn1\.bias \(4,\) instead of \(2, 4\)"),
        (plain, without("bn1.weight"), "the state lacks set 0 of bn1.weight"),
        (
            lambda: plain(branches=("adv", "clean")),
            lambda state: None,
            r"has the branches \('adv', 'clean'\), but the state's are called \('clean', 'adv'\)",
        ),
        (
            lambda: plain("saauxbn"),
            lambda state: None,
            "missing: bn1.shared_bias, bn1.shared_weight, layer1.0.bn1.shared_bias, "
            "layer1.0.bn1.shared_weight, layer1.1.bn1.shared_bias and 1 more",
        ),
    ],
)
def test_state_that_does_not_fit_is_named_and_nothing_loaded(model, change, message):
    model, state = model(), SmallResNet(MixNorm).state_dict()
    change(state)
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(ValueError, match=message):
        load_released(model, state, "advprop-mixbn")
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_unknown_layout_names_the_nearest():
    with pytest.raises(ValueError, match="unknown layout 'oat-dualnb'; did you mean 'oat-dualbn'"):
        load_released(plain(), {}, "oat-dualnb")

import pytest
import torch
from torch.nn import functional as F

from robustnorm.applications.nas.cell import MixedCell
from robustnorm.applications.nas.supernet import ResidualBlock, Supernet

SAMPLED = [(0, 1, 2, 3, 4, 0)] * 3


def make(norm="sabn", **changes):
    arguments = {"num_classes": 3, "channels": 4, "cells": 1, "norm": norm, "paths": "release"}
    return Supernet(**arguments | changes)


def test_supernet_has_three_stages_of_cells_and_two_blocks():
    network = make(cells=5)
    kinds = [type(layer) for layer in network.layers]
    stage = [MixedCell] * 5
    assert kinds == [*stage, ResidualBlock, *stage, ResidualBlock, *stage]
    assert network.mixed_cells == 15
    assert network(torch.rand(4, 3, 8, 8), SAMPLED * 5).shape == (4, 3)


def test_parameters_are_as_many_as_the_release_s():
    counts = {
        norm: sum(p.numel() for p in make(norm, num_classes=100, channels=16, cells=5).parameters())
        for norm in ("bn", "affine", "ccbn", "sabn")
    }
    # Counted in its TinyNetworkDarts of each norm.
    assert counts == {"bn": 1691986, "affine": 1705426, "ccbn": 1777106, "sabn": 1790546}


def test_norms_of_a_seed_share_convolutions_and_alpha():
    states = {norm: make(norm, seed=1).state_dict() for norm in ("bn", "affine", "ccbn", "sabn")}
    for name, value in states["bn"].items():
        for norm, state in states.items():
            torch.testing.assert_close(state[name], value, rtol=0, atol=0, msg=f"{norm} {name}")
    other = make("bn", seed=2).state_dict()
    assert not torch.equal(other["alpha"], states["bn"]["alpha"])
    assert not torch.equal(other["stem.0.weight"], states["bn"]["stem.0.weight"])


def test_alpha_begins_near_zero():
    alpha = torch.stack([make(seed=seed).alpha.detach() for seed in range(40)])
    assert alpha.shape[1:] == (6, 5)
    # 1,200 values: the deviation of their standard deviation is 2 %.
    assert float(alpha.std()) == pytest.approx(1e-3, rel=0.1)


def test_building_leaves_the_global_random_state_alone():
    before = torch.get_rng_state()
    make()
    assert torch.equal(torch.get_rng_state(), before)


def test_images_are_standardized_by_mean_and_std():
    torch.manual_seed(0)
    images = torch.rand(4, 3, 8, 8)
    mean, std = (0.5, 0.4, 0.3), (0.2, 0.3, 0.4)
    found = make(mean=mean, std=std)(images, SAMPLED)
    shape = (1, 3, 1, 1)
    given = (images - torch.tensor(mean).view(shape)) / torch.tensor(std).view(shape)
    torch.testing.assert_close(found, make()(given, SAMPLED))


def test_stem_blocks_and_last_norm_keep_running_statistics_and_cells_do_not():
    network = make()
    tracked = {name.partition(".")[0] for name, _ in network.named_buffers() if "running" in name}
    assert tracked == {"stem", "layers", "last_norm"}
    assert all(not list(m.buffers()) for m in network.modules() if isinstance(m, MixedCell))


def test_residual_block_is_the_benchmark_s():
    torch.manual_seed(0)
    block = ResidualBlock(2, 4).eval()
    x = torch.randn(3, 2, 8, 8)
    first, second = block.first[0].weight, block.second[0].weight
    norm = (1 + 1e-5) ** 0.5  # of running statistics as they begin
    h = F.conv2d(x.relu(), first, stride=2, padding=1) / norm
    h = F.conv2d(h.relu(), second, padding=1) / norm
    pooled = x.view(3, 2, 4, 2, 4, 2).mean((3, 5))
    expected = h + torch.einsum("oc,nchw->nohw", block.shortcut.weight[:, :, 0, 0], pooled)
    torch.testing.assert_close(block(x), expected)


def test_gradient_of_alpha_is_the_same_with_weights_frozen():
    torch.manual_seed(0)
    network = make().double()
    images, labels = torch.rand(6, 3, 8, 8, dtype=torch.float64), torch.arange(6) % 3

    def loss():
        return F.cross_entropy(network(images, SAMPLED), labels)

    loss().backward()
    whole = network.alpha.grad
    (alone,) = torch.autograd.grad(loss(), [network.alpha])
    for weight in network.weights():
        weight.requires_grad_(False)
    network.alpha.grad = None
    loss().backward()
    torch.testing.assert_close(alone, whole, rtol=0, atol=0)
    torch.testing.assert_close(network.alpha.grad, whole, rtol=0, atol=0)


def test_weights_are_all_parameters_but_alpha():
    network = make()
    others = {id(weight) for weight in network.weights()}
    assert id(network.alpha) not in others
    assert len(others) == len(list(network.parameters())) - 1


@pytest.mark.parametrize("size", [(31, 17), (5, 7), (1, 3)])
def test_images_may_have_odd_sizes(size):
    assert make()(torch.rand(4, 3, *size), SAMPLED).shape == (4, 3)


def test_residual_block_of_an_odd_size_averages_what_there_is():
    block = ResidualBlock(1, 1)
    torch.nn.init.zeros_(block.second[1].weight)  # the residual is 0
    torch.nn.init.ones_(block.shortcut.weight)
    image = torch.arange(9.0).view(1, 1, 3, 3)
    expected = torch.tensor([[(0 + 1 + 3 + 4) / 4, (2 + 5) / 2], [(6 + 7) / 2, 8]])
    assert torch.equal(block(image.repeat(2, 1, 1, 1))[0, 0], expected)

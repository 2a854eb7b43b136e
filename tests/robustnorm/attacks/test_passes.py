"""Passes counted where their number is known."""

import pytest
import torch
from torch import nn

from robustnorm.attacks import pgd, torchattack, worst_case
from robustnorm.attacks.passes import Counted, Passes

N = 6


@pytest.fixture
def setting():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 5)).eval()
    images = torch.rand(N, 3, 2, 2)
    return model, images, model(images).argmax(1)


def test_pgd_passes_forward_and_back_once_a_step(setting):
    model, images, labels = setting
    counted = Counted(model)
    options = {"epsilon": 0.1, "step_size": 0.02, "steps": 7, "random_start": False}
    adv_images = pgd(counted, images, labels, **options)
    assert counted.passes == Passes(7 * N, 7 * N)
    assert torch.equal(adv_images, pgd(model, images, labels, **options))


def test_gradients_of_several_logits_are_as_many_passes_back(setting):
    model, images, _ = setting
    counted = Counted(model)
    logits = counted(images.requires_grad_())
    for column in logits.T:
        torch.autograd.grad(column.sum(), images, retain_graph=True)
    assert counted.passes == Passes(N, 5 * N)


def test_image_that_withstands_takes_all_climbs_and_a_misclassified_one_a_look(setting):
    model, images, labels = setting
    labels[1:] = (labels[1:] + 1) % 5
    counted = Counted(model)
    worst_case(counted, images, labels, epsilon=0.0, steps=4, targets=2)
    # All are seen once. One climbs from there, in four steps, the last iterate only seen; then it
    # is asked for the slopes of three other classes, and climbs towards one of them.
    assert counted.passes == Passes(N + 4 + 1 + 5, N + 3 + 3 + 4)


def test_attack_of_others_is_counted_with_the_images_that_it_returns(setting):
    model, images, labels = setting
    pytest.importorskip("torchattacks")
    labels[2:] = (labels[2:] + 1) % 5
    counted, options = Counted(model), {"epsilon": 0.02, "name": "Square", "n_queries": 200}
    found = [
        torchattack(asked, images, labels, generator=torch.Generator().manual_seed(0), **options)
        for asked in (counted, model)
    ]
    assert torch.equal(*found)
    standing = int((model(found[0]).argmax(1) == labels).sum())
    assert counted.passes.forward >= 200 * standing
    assert counted.passes.backward == 0

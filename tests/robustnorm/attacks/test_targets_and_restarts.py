"""PGD's losses, targets and restarts."""

import pytest
import torch
import torchattacks
from pgd_cases import make_conv_model, make_inputs, seeded
from torch import nn
from torch.nn import functional as F

from robustnorm.attacks import pgd
from robustnorm.attacks.descent import pgd_step
from robustnorm.attacks.losses import find_loss
from robustnorm.attacks.threat_model import THREAT_MODELS


def make_three_class_model():
    """Three classes on four pixels: near the images, class 0 leads and class 2 is last."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 3)).double()
    with torch.no_grad():
        model[1].weight.copy_(
            torch.tensor([[1.0, -1.0, 0.5, 0.0], [0.5, 1.0, -1.0, 1.0], [-1.0, 0.25, 1.0, -0.5]])
        )
        model[1].bias.copy_(torch.tensor([4.0, 1.0, -2.0]))
    return model


@pytest.mark.parametrize("loss", ["ce", "margin", "dlr"])
@pytest.mark.parametrize("threat_model", ["linf", "l2"])
def test_loss_leads_to_the_corner_of_its_formula_on_a_linear_model(loss, threat_model):
    """Label 0, runner-up 1: each loss's gradient written out, constant or nearly so in the ball."""
    model, images = make_three_class_model(), torch.full((2, 1, 2, 2), 0.5, dtype=torch.float64)
    labels = torch.zeros(2, dtype=torch.int64)
    w, z = model[1].weight.detach(), model(images)[0].detach()
    p = z.softmax(0)
    direction = {
        "ce": p[1] * (w[1] - w[0]) + p[2] * (w[2] - w[0]),
        "margin": w[1] - w[0],
        # (z1 - z0) / (z0 - z2)
        "dlr": ((w[1] - w[0]) * (z[0] - z[2]) - (z[1] - z[0]) * (w[0] - w[2])) / (z[0] - z[2]) ** 2,
    }[loss]
    adv_images = pgd(
        model,
        images,
        labels,
        epsilon=0.05,
        step_size=0.05,
        steps=1,
        loss=loss,
        threat_model=threat_model,
        random_start=False,
    )
    change = direction.sign() if threat_model == "linf" else direction / direction.norm()
    torch.testing.assert_close(  # float64
        adv_images, images + 0.05 * change.view(1, 1, 2, 2), rtol=0, atol=1e-12
    )


@pytest.mark.parametrize("loss", ["ce", "margin"])
def test_targeted_attack_ends_at_the_corner_nearest_to_its_target(loss):
    """The target needs not be the runner-up, and its corner is not the untargeted one."""
    torch.manual_seed(1)
    model = nn.Sequential(nn.Flatten(), nn.Linear(27, 5)).double()
    with torch.no_grad():
        model[1].bias += torch.tensor([3.0, 0.0, 0.0, 0.0, 0.0])
    images, _ = make_inputs(size=3, margin=0.2)
    labels = torch.zeros(len(images), dtype=torch.int64)
    assert (model(images).argmax(1) == 0).all()
    ends = {}
    for target in (1, 4):
        targets = torch.full_like(labels, target)
        ends[target] = pgd(
            model,
            images,
            labels,
            epsilon=0.1,
            step_size=0.02,
            steps=30,
            loss=loss,
            targets=targets,
            random_start=False,
        )
        corner = images + 0.1 * (model[1].weight[target] - model[1].weight[0]).sign().view(3, 3, 3)
        if loss == "margin":  # class 0 leads throughout: the gradient is w_target - w_0
            torch.testing.assert_close(ends[target], corner, rtol=0, atol=1e-12)
        lead = model(ends[target])[:, target] - model(ends[target])[:, 0]
        clean = model(images)[:, target] - model(images)[:, 0]
        best = model(corner)[:, target] - model(corner)[:, 0]  # nothing in the ball is higher
        assert ((lead - clean) > 0.8 * (best - clean)).all()
    assert not torch.equal(ends[1], ends[4])


@pytest.mark.parametrize("peer_name", ["PGD", "PGDL2"])
def test_targeted_cross_entropy_equals_torchattacks(peer_name):
    model, (images, labels) = make_conv_model(), make_inputs()
    targets = (labels + 2) % 5
    epsilon, step_size = (0.1, 0.02) if peer_name == "PGD" else (0.5, 0.1)
    options = {"eps": epsilon, "alpha": step_size, "steps": 5, "random_start": False}
    peer = getattr(torchattacks, peer_name)(model, **options)
    peer.set_mode_targeted_by_label(quiet=True)
    adv_images = pgd(
        model,
        images,
        labels,
        epsilon=epsilon,
        step_size=step_size,
        steps=5,
        targets=targets,
        random_start=False,
        threat_model="linf" if peer_name == "PGD" else "l2",
    )
    # As in the untargeted test: the L2 peer adds 1e-10 to each gradient's norm.
    torch.testing.assert_close(adv_images, peer(images, targets), rtol=0, atol=1e-8)


@pytest.mark.parametrize("loss", ["ce", "margin", "dlr"])
def test_restarts_keep_the_first_success_else_the_highest_loss(loss):
    model, (images, labels) = make_conv_model(), make_inputs(n=30)
    labels = model(images).argmax(1)
    options = {"epsilon": 0.3, "step_size": 0.05, "steps": 2, "loss": loss}
    found = pgd(model, images, labels, restarts=4, generator=seeded(), **options)
    generator = seeded()  # the same four starts, one after the other
    singles = [pgd(model, images, labels, generator=generator, **options) for _ in range(4)]
    logits = [model(adv_images) for adv_images in singles]
    kept = []
    for i in range(len(images)):
        broken = [z[i].argmax() != labels[i] for z in logits]
        losses = [find_loss(loss)(z[[i]], labels[[i]], None).item() for z in logits]
        chosen = broken.index(True) if any(broken) else losses.index(max(losses))
        kept.append(chosen)
        assert torch.equal(found[i], singles[chosen][i])
    assert len(set(kept)) > 2
    assert 0 < (model(found).argmax(1) == labels).sum() < len(images)


def test_targeted_restarts_prefer_the_target_to_any_other_class():
    model, (images, labels) = make_conv_model(), make_inputs(n=30)
    labels = model(images).argmax(1)
    targets = (labels + 1) % 5
    options = {"epsilon": 0.5, "step_size": 0.1, "steps": 3, "targets": targets}
    found = pgd(model, images, labels, restarts=4, generator=seeded(), **options)
    generator = seeded()
    singles = [pgd(model, images, labels, generator=generator, **options) for _ in range(4)]
    reached = torch.stack([model(adv_images).argmax(1) == targets for adv_images in singles])
    assert torch.equal(model(found).argmax(1) == targets, reached.any(0))
    assert not torch.equal(reached.any(0), reached[0])


def test_pgd_s_default_step_is_that_of_the_summed_cross_entropy_bit_for_bit():
    """Training depends on it to the last bit."""
    model, (images, labels) = make_conv_model().float(), make_inputs(n=30)
    images = images.float()
    options = {"epsilon": 8 / 255, "step_size": 2 / 255}
    found, logits = pgd_step(model, images, images, labels, **options)
    leaf = images.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(F.cross_entropy(model(leaf), labels, reduction="sum"), leaf)
    assert torch.equal(logits, model(images))
    assert torch.equal(found, (images + 2 / 255 * gradient.sign()).clamp(0, 1))
    found, _ = pgd_step(model, images, images, labels, threat_model="l2", **options)
    l2 = THREAT_MODELS["l2"]
    moved = images + l2.ascend(gradient, 2 / 255)
    assert torch.equal(found, l2.project(moved, images, 8 / 255))

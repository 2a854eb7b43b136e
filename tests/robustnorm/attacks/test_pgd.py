"""PGD and FGSM against known answers and torchattacks."""

import math

import pytest
import torch
import torchattacks
from torch import nn
from torch.nn import functional as F

from robustnorm.attacks import fgsm, pgd
from robustnorm.attacks.descent import pgd_step
from robustnorm.attacks.losses import find_loss
from robustnorm.attacks.threat_model import THREAT_MODELS


def make_linear_model():
    """Two classes in float64, in Z = w x: the gradient's sign is the same everywhere."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(27, 2)).double()


def make_conv_model():
    torch.manual_seed(0)
    return (
        nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1),
            nn.BatchNorm2d(8),
            nn.ReLU(),
            nn.AvgPool2d(2),
            nn.Flatten(),
            nn.Linear(32, 5),
        )
        .double()
        .eval()
    )


def make_inputs(n=8, size=4, classes=5, margin=0.0):
    generator = torch.Generator().manual_seed(1)
    images = torch.rand(n, 3, size, size, generator=generator, dtype=torch.float64)
    labels = torch.randint(classes, (n,), generator=generator)
    return images * (1 - 2 * margin) + margin, labels


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def descent_of_the_label(model, labels):
    """Direction that lowers the label's logit relative to the other's, for the linear model."""
    weight = model[1].weight
    return (weight[1 - labels] - weight[labels]).view(-1, 3, 3, 3)


def test_pgd_reaches_the_exact_corner_of_a_linear_model():
    model = make_linear_model()
    images, labels = make_inputs(size=3, classes=2)
    adv_images = pgd(
        model, images, labels, epsilon=0.1, step_size=0.03, steps=10, generator=seeded()
    )
    corner = (images + 0.1 * descent_of_the_label(model, labels).sign()).clamp(0, 1)
    assert torch.equal(adv_images, corner)


def test_fgsm_reaches_the_exact_corner_of_a_linear_model():
    model = make_linear_model()
    images, labels = make_inputs(size=3, classes=2)
    corner = (images + 0.1 * descent_of_the_label(model, labels).sign()).clamp(0, 1)
    assert torch.equal(fgsm(model, images, labels, epsilon=0.1), corner)


def test_l2_pgd_ends_on_the_sphere_along_the_weights_of_a_linear_model():
    model = make_linear_model()
    images, labels = make_inputs(size=3, classes=2, margin=0.2)  # the ball lies within [0, 1]
    adv_images = pgd(
        model,
        images,
        labels,
        epsilon=0.1,
        step_size=0.05,
        steps=400,
        threat_model="l2",
        generator=seeded(),
    )
    direction = descent_of_the_label(model, labels)
    expected = images + 0.1 * direction / direction.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
    # Each step shrinks the angle to the weights by a third: 400 steps leave rounding only.
    torch.testing.assert_close(adv_images, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_pgd_equals_torchattacks_from_the_same_start(norm):
    model, (images, labels) = make_conv_model(), make_inputs()
    torch.manual_seed(3)
    if norm == "linf":
        start = (images + torch.empty_like(images).uniform_(-8 / 255, 8 / 255)).clamp(0, 1)
        peer = torchattacks.PGD(model, eps=8 / 255, alpha=2 / 255, steps=10)
        arguments = {"epsilon": 8 / 255, "step_size": 2 / 255}
    else:
        peer = torchattacks.PGDL2(model, eps=0.5, alpha=0.1, steps=10, random_start=False)
        start = images
        arguments = {"epsilon": 0.5, "step_size": 0.1, "threat_model": "l2"}
    torch.manual_seed(3)  # the peer draws the same start from the global state
    expected = peer(images, labels)
    adv_images = pgd(model, images, labels, steps=10, start=start, **arguments)
    # Linf: the same float64 operations. L2: the peer adds 1e-10 to each gradient's norm.
    torch.testing.assert_close(adv_images, expected, rtol=0, atol=1e-12 if norm == "linf" else 1e-8)


def test_fgsm_equals_torchattacks():
    model, (images, labels) = make_conv_model(), make_inputs()
    expected = torchattacks.FGSM(model, eps=8 / 255)(images, labels)
    adv_images = fgsm(model, images, labels, epsilon=8 / 255)
    torch.testing.assert_close(adv_images, expected, rtol=0, atol=1e-12)  # float64


def test_pgd_with_epsilon_zero_returns_the_images():
    model, (images, labels) = make_conv_model(), make_inputs()
    adv_images = pgd(model, images, labels, epsilon=0.0, step_size=0.1, steps=3, generator=seeded())
    assert torch.equal(adv_images, images)
    assert torch.equal(fgsm(model, images, labels, epsilon=0.0), images)


def test_pgd_without_steps_returns_the_random_start():
    model, (images, labels) = make_conv_model(), make_inputs()
    adv_images = pgd(
        model, images, labels, epsilon=0.1, step_size=0.1, steps=0, generator=seeded(5)
    )
    assert torch.equal(adv_images, THREAT_MODELS["linf"].random_start(images, 0.1, seeded(5)))


def test_pgd_is_a_copy_even_when_nothing_moves():
    model, (images, labels) = make_conv_model(), make_inputs()
    adv_images = pgd(model, images, labels, epsilon=0.1, step_size=0.1, steps=0, random_start=False)
    assert torch.equal(adv_images, images)
    assert adv_images.data_ptr() != images.data_ptr()


def test_pgd_gives_an_image_the_same_result_in_any_batch():
    model, (images, labels) = make_conv_model(), make_inputs()
    options = {"epsilon": 0.1, "step_size": 0.02, "steps": 5, "random_start": False}
    together = pgd(model, images, labels, **options)
    alone = torch.cat(
        [pgd(model, images[i : i + 1], labels[i : i + 1], **options) for i in range(len(images))]
    )
    torch.testing.assert_close(alone, together, rtol=0, atol=1e-12)  # float64 sums


def test_on_iterate_sees_each_iterate_with_its_own_logits():
    model, (images, labels) = make_conv_model(), make_inputs()
    seen = []
    adv_images = pgd(
        model,
        images,
        labels,
        epsilon=0.1,
        step_size=0.02,
        steps=4,
        generator=seeded(),
        on_iterate=lambda *iterate: seen.append(iterate),
    )
    assert [step for step, _, _ in seen] == [0, 1, 2, 3, 4]
    assert torch.equal(seen[-1][1], adv_images)
    for _, iterate, logits in seen:
        assert not logits.requires_grad
        assert torch.equal(logits, model(iterate).detach())


def test_iterates_are_those_of_shorter_attacks():
    model, (images, labels) = make_conv_model(), make_inputs()
    options = {"epsilon": 0.1, "step_size": 0.02, "start": images}
    iterates = {}
    pgd(
        model,
        images,
        labels,
        steps=6,
        on_iterate=lambda step, iterate, _: iterates.update({step: iterate}),
        **options,
    )
    assert torch.equal(iterates[3], pgd(model, images, labels, steps=3, **options))


@pytest.mark.parametrize(("watch", "forwards"), [(False, 4), (True, 5)])
def test_pgd_runs_the_model_no_more_than_it_must(watch, forwards):
    model, (images, labels) = make_conv_model(), make_inputs()
    calls = []
    model.register_forward_hook(lambda *_: calls.append(1))
    pgd(
        model,
        images,
        labels,
        epsilon=0.1,
        step_size=0.02,
        steps=4,
        generator=seeded(),
        on_iterate=(lambda *_: None) if watch else None,
    )
    assert len(calls) == forwards


def test_pgd_computes_no_weight_gradient():
    model, (images, labels) = make_conv_model(), make_inputs()
    computed = []
    for parameter in model.parameters():
        parameter.register_hook(lambda gradient: computed.append(gradient.shape))
    pgd(model, images, labels, epsilon=0.1, step_size=0.02, steps=2, generator=seeded())
    assert computed == []
    F.cross_entropy(model(images), labels).backward()  # the hooks do work
    assert len(computed) == 6


def test_pgd_restores_running_statistics_of_a_module_and_moves_those_of_a_function():
    model, (images, labels) = make_conv_model().train(), make_inputs()
    before = model[1].running_mean.clone()
    options = {"epsilon": 0.1, "step_size": 0.02, "steps": 2, "generator": seeded()}
    pgd(model, images, labels, **options)
    assert torch.equal(model[1].running_mean, before)
    pgd(lambda inputs: model(inputs), images, labels, **options)
    assert not torch.equal(model[1].running_mean, before)


def test_pgd_takes_half_precision_logits():
    model, (images, labels) = make_conv_model().float(), make_inputs()
    with torch.autocast("cpu", torch.bfloat16):
        adv_images = pgd(
            model,
            images.float(),
            labels,
            epsilon=0.1,
            step_size=0.02,
            steps=3,
            generator=seeded(),
        )
    assert adv_images.dtype == torch.float32
    clean = F.cross_entropy(model(images.float()), labels)
    assert F.cross_entropy(model(adv_images), labels) > clean + 0.01


def test_pgd_keeps_the_memory_format():
    model, (images, labels) = make_conv_model(), make_inputs()
    images = images.contiguous(memory_format=torch.channels_last)
    adv_images = pgd(
        model, images, labels, epsilon=0.1, step_size=0.02, steps=2, generator=seeded()
    )
    assert adv_images.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"step_size": 0.0}, "step_size must be from 1e-06 to inf"),
        ({"steps": -1}, "steps must be a whole number of at least 0"),
        ({"start": torch.zeros(8, 3, 4, 4, dtype=torch.float64)}, "start must have the images'"),
        ({"start": torch.zeros(1)}, "start must have the images'"),
        ({"loss": "kl"}, "unknown loss 'kl'. Known: ce, margin, dlr."),
        ({"targets": torch.zeros(3, dtype=torch.int64)}, r"targets must be int64 of shape \(8,\)"),
        ({"targets": make_inputs()[1]}, "must differ from the image's label"),
        ({"restarts": 0}, "restarts must be at least 1"),
        ({"restarts": 2, "random_start": False}, "more than 1 need a random start, got 2 with"),
    ],
)
def test_pgd_refuses_bad_arguments(change, message):
    model, (images, labels) = make_conv_model(), make_inputs()
    arguments = {"epsilon": 0.1, "step_size": 0.02, "steps": 2, "generator": seeded()} | change
    with pytest.raises(ValueError, match=message):
        pgd(model, images, labels, **arguments)


def test_linf_random_start_is_uniform_in_the_cube():
    images = torch.full((50, 3, 8, 8), 0.5)
    noise = THREAT_MODELS["linf"].random_start(images, 0.1, seeded()) - images
    # 9,600 draws: moments within 5 standard errors of those of U(-0.1, 0.1).
    assert abs(noise.mean().item()) < 5 * 0.1 / math.sqrt(3 * 9600)
    assert abs(noise.square().mean().item() - 0.01 / 3) < 5 * 0.01 * math.sqrt(4 / 45 / 9600)
    assert 0.0999 < noise.abs().max() <= 0.1 + 1e-6


def test_l2_random_start_is_uniform_in_the_ball():
    images = torch.full((4000, 1, 1, 2), 0.5, dtype=torch.float64)
    start = THREAT_MODELS["l2"].random_start(images, 0.1, seeded())
    radius = (start - images).flatten(1).norm(dim=1) / 0.1
    assert radius.max() <= 1
    # In two dimensions the squared radius is uniform: mean 1/2, within 5 standard errors.
    assert abs(radius.square().mean().item() - 0.5) < 5 / math.sqrt(12 * 4000)


def test_random_start_on_the_generator_s_device_stays_in_range():
    images = torch.tensor([0.0, 1.0]).view(2, 1, 1, 1).expand(2, 3, 4, 4)
    for ball in THREAT_MODELS.values():
        start = ball.random_start(images, 0.3, seeded())
        assert start.min() >= 0
        assert start.max() <= 1


@pytest.mark.parametrize("name", THREAT_MODELS)
def test_projection_lands_in_the_ball_and_keeps_what_is_inside(name):
    ball, (images, _) = THREAT_MODELS[name], make_inputs()
    far = images + torch.randn(images.shape, generator=seeded(), dtype=torch.float64)
    projected = ball.project(far, images, 0.1)
    assert ball.contains(projected, images, 0.1, tolerance=1e-12).all()
    torch.testing.assert_close(ball.project(projected, images, 0.1), projected, rtol=0, atol=1e-15)


@pytest.mark.parametrize("name", THREAT_MODELS)
def test_contains_tells_images_apart(name):
    images = torch.full((3, 1, 2, 2), 0.5)
    adv_images = images.clone()
    adv_images[1, 0, 0, 0] = 0.7  # farther than 0.1
    adv_images[2] = 1.01  # outside [0, 1]
    assert THREAT_MODELS[name].contains(adv_images, images, 0.1).tolist() == [True, False, False]


def test_zero_gradient_moves_nothing():
    for ball in THREAT_MODELS.values():
        step = ball.ascend(torch.zeros(2, 3, 4, 4), 0.1)
        assert not step.any()


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

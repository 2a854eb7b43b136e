"""PGD and FGSM against known answers and torchattacks."""

import pytest
import torch
import torchattacks
from pgd_cases import make_conv_model, make_inputs, seeded
from torch import nn
from torch.nn import functional as F

from robustnorm.attacks import fgsm, pgd
from robustnorm.attacks.threat_model import THREAT_MODELS


def make_linear_model():
    """Two classes in float64, in Z = w x: the gradient's sign is the same everywhere."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(27, 2)).double()


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

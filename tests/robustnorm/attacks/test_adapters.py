"""The adapters compared with direct calls of the libraries."""

from functools import partial

import pyautoattack
import pytest
import torch
import torchattacks
from torch import nn

from robustnorm.attacks import autoattack, fgsm, pgd, torchattack
from robustnorm.attacks.contract import Shell


def make_model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(64, 10)).eval()


def make_inputs(n=12):
    images = torch.rand(n, 1, 6, 6, generator=torch.Generator().manual_seed(1))
    return images, make_model()(images).argmax(1)


def seed_of(generator):
    return int(torch.randint(2**31, (), generator=generator))


@pytest.mark.parametrize("names", [["apgd-ce", "apgd-t"], ["square"]], ids="+".join)
@pytest.mark.parametrize("threat_model", ["linf", "l2"])
def test_autoattack_equals_a_direct_call_bit_for_bit(threat_model, names):
    images, labels = make_inputs()
    epsilon = 0.1 if threat_model == "linf" else 1.0  # all fall, before 5,000 queries are spent
    adv_images = autoattack(
        make_model(),
        images,
        labels,
        epsilon=epsilon,
        threat_model=threat_model,
        generator=torch.Generator().manual_seed(5),
        attacks_to_run=names,
    )
    direct = pyautoattack.AutoAttack(
        make_model(),
        norm={"linf": "Linf", "l2": "L2"}[threat_model],
        eps=epsilon,
        seed=seed_of(torch.Generator().manual_seed(5)),
        version="custom",
        attacks=names,
    )
    torch.manual_seed(seed_of(torch.Generator().manual_seed(5)))
    expected, _ = direct.run_standard_evaluation(images, labels)
    assert torch.equal(adv_images, expected)


def test_autoattack_returns_the_images_that_it_cannot_break():
    images, labels = make_inputs()
    adv_images = autoattack(
        make_model(),
        images,
        labels,
        epsilon=0.01,
        generator=torch.Generator(),
        attacks_to_run=["apgd-ce"],
    )
    withstands = make_model()(adv_images).argmax(1) == labels
    assert 0 < withstands.sum() < len(images)
    assert torch.equal(adv_images[withstands], images[withstands])


def test_torchattack_equals_a_direct_call():
    images, labels = make_inputs()
    adv_images = torchattack(
        make_model(),
        images,
        labels,
        name="APGD",
        epsilon=0.05,
        steps=5,
        generator=torch.Generator().manual_seed(5),
    )
    torch.manual_seed(seed_of(torch.Generator().manual_seed(5)))
    peer = torchattacks.APGD(make_model(), eps=0.05, steps=5, seed=0)
    torch.testing.assert_close(adv_images, peer(images, labels), rtol=0, atol=1e-6)  # projection


def test_torchattack_of_a_class_without_radius_keeps_only_what_lies_in_the_ball():
    images, labels = make_inputs()
    model = make_model()
    result = torchattacks.DeepFool(model)(images, labels)
    distance = (result - images).flatten(1).norm(dim=1)
    epsilon = distance.median().item()
    adv_images = torchattack(
        model,
        images,
        labels,
        name="DeepFool",
        epsilon=epsilon,
        threat_model="l2",
        generator=torch.Generator(),
    )
    near = distance <= epsilon
    assert 0 < near.sum() < len(images)
    torch.testing.assert_close(adv_images[near], result[near], rtol=0, atol=1e-6)
    assert torch.equal(adv_images[~near], images[~near])


def test_torchattack_refuses_an_attack_of_another_threat_model():
    with pytest.raises(ValueError, match=r"torchattacks.PGD left the l2 ball of radius 0.1"):
        torchattack(
            make_model(),
            *make_inputs(),
            name="PGD",
            epsilon=0.1,
            threat_model="l2",
            generator=torch.Generator(),
        )


def test_torchattack_that_needs_more_classes_says_so():
    with pytest.raises(ValueError, match=r"torchattacks.APGDT fails .* may need more classes"):
        torchattack(
            linear_model(3),
            torch.rand(4, 3, 3, 3),
            torch.zeros(4, dtype=torch.int64),
            name="APGDT",
            epsilon=0.1,
            generator=torch.Generator(),
        )


def test_torchattack_may_round_on_the_surface_of_a_large_ball():
    """The library sums squares in float32."""
    images = 0.4 + 0.2 * torch.rand(2, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    model = nn.Sequential(nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(48, 3)).eval()
    adv_images = torchattack(
        model,
        images,
        model(images).argmax(1),
        name="PGDL2",
        alpha=10.0,
        steps=3,
        epsilon=30.0,
        threat_model="l2",
        generator=torch.Generator(),
    )
    change = adv_images.double() - images
    distance = change.square().sum((1, 2, 3)).sqrt()
    assert distance.min() > 29
    assert distance.max() <= 30 * (1 + 1e-6)


def test_torchattack_names_the_nearest_class():
    with pytest.raises(ValueError, match=r"unknown attack 'torchattacks.APDG'; did you mean 'APGD"):
        torchattack(
            make_model(), *make_inputs(), name="APDG", epsilon=0.1, generator=torch.Generator()
        )


def test_shell_keeps_train_and_eval_to_itself():
    model = make_model()
    shell = Shell(model, torch.device("cpu"))
    shell.train()
    assert not model.training
    assert list(shell.parameters()) == [shell.device_holder]


def linear_model(classes):
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(27, classes)).eval()


@pytest.mark.parametrize("classes", [4, 8])
@pytest.mark.parametrize("name", ["apgd-t", "fab-t", "torchattacks:AutoAttack"])
def test_targeted_attacks_aim_at_all_wrong_classes_where_there_are_few(name, classes):
    model = linear_model(classes)
    images = torch.rand(8, 3, 3, 3, generator=torch.Generator().manual_seed(1))
    labels = model(images).argmax(1)
    library, _, part = name.rpartition(":")
    attack = (
        partial(torchattack, name=part) if library else partial(autoattack, attacks_to_run=[part])
    )
    adv_images = attack(
        model, images, labels, epsilon=0.5, generator=torch.Generator().manual_seed(0)
    )
    # In half of the range a linear network gives way for every image.
    assert (model(adv_images).argmax(1) != labels).all()


@pytest.mark.parametrize("names", [None, ["apgd-ce", "apgd-t"]])
def test_autoattack_refuses_fewer_classes_than_its_loss_needs(names):
    images = torch.rand(2, 3, 3, 3)
    with pytest.raises(ValueError, match="apgd-t needs at least 4 classes, the model has 3"):
        autoattack(
            linear_model(3),
            images,
            torch.zeros(2, dtype=torch.int64),
            epsilon=0.1,
            generator=torch.Generator(),
            attacks_to_run=names,
        )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"version": "rand"}, "apgd-dlr needs at least 3 classes, the model has 2"),
        ({"attacks_to_run": ["apgd-dlr"]}, "apgd-dlr needs at least 3 classes, the model has 2"),
        ({"version": "standart"}, "unknown version 'standart'; did you mean 'standard'"),
        ({"attacks_to_run": ["apgd-c"]}, "unknown attack of AutoAttack 'apgd-c'.*apgd-ce"),
    ],
)
def test_autoattack_refuses_what_its_code_would_stumble_over(options, message):
    with pytest.raises(ValueError, match=message):
        autoattack(
            linear_model(2),
            torch.rand(2, 3, 3, 3),
            torch.zeros(2, dtype=torch.int64),
            epsilon=0.1,
            generator=torch.Generator(),
            **options,
        )


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=str)
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(
    ("threat_model", "epsilon", "name"),
    [
        *(
            (threat_model, epsilon, name)
            for threat_model, epsilon in (("linf", 0.2), ("l2", 2.0))
            for name in ("apgd-ce", "apgd-t", "fab-t", "square", "pgd", "fgsm")
        ),
        ("linf", 0.2, "torchattacks:PGD"),
        ("linf", 0.2, "torchattacks:Square"),
        ("l2", 2.0, "torchattacks:PGDL2"),
    ],
)
def test_every_attack_takes_grey_and_rgb_images_in_any_layout(
    name, threat_model, epsilon, channels, layout, short_autoattack
):
    """The packages call view, which a channels-last image of three channels refuses."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(channels, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(64, 10))
    model = model.eval()
    images = torch.rand(6, channels, 6, 6, generator=torch.Generator().manual_seed(1))
    images = images.contiguous(memory_format=layout)
    labels = model(images).argmax(1)
    library, _, part = name.partition(":")
    ball = {"epsilon": epsilon, "threat_model": threat_model}
    generator = torch.Generator().manual_seed(5)
    match library:
        case "torchattacks":
            adv_images = torchattack(model, images, labels, name=part, generator=generator, **ball)
        case "pgd":
            adv_images = pgd(
                model, images, labels, step_size=epsilon / 4, steps=10, generator=generator, **ball
            )
        case "fgsm":
            adv_images = fgsm(model, images, labels, **ball)
        case _:
            adv_images = autoattack(
                model, images, labels, attacks_to_run=[name], generator=generator, **ball
            )
    assert adv_images.shape == images.shape
    change = (adv_images - images).flatten(1)
    order = torch.inf if threat_model == "linf" else 2
    assert (change.norm(order, dim=1) <= epsilon * (1 + 1e-5)).all()
    assert (model(adv_images).argmax(1) != labels).any()

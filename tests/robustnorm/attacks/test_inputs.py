"""What every attack makes right of what it is given, and what it refuses, in one sentence."""

import inspect
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from robustnorm.attacks import ATTACKS
from robustnorm.attacks.inputs import admit_images, admit_labels
from robustnorm.attacks.logits import InputError, LogitsModel, find_logits

OPTIONS = {
    "pgd": {"step_size": 0.02, "steps": 3},
    "fgsm": {},
    "autoattack": {"attacks_to_run": ["apgd-ce"]},
    "torchattack": {"name": "PGD", "alpha": 0.02, "steps": 3},
    "worst": {},
}


def make_model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(12, 8), nn.Tanh(), nn.Linear(8, 4)).eval()


MODEL = make_model()
IMAGES = torch.rand(6, 3, 2, 2, generator=torch.Generator().manual_seed(1))
LABELS = torch.tensor([3, 0, 1, 2, 0, 3])


@pytest.fixture(params=ATTACKS, scope="module")
def attack(request, short_autoattack):
    def run(model=MODEL, images=IMAGES, labels=LABELS, **changes):
        options = {"epsilon": 0.1, "generator": torch.Generator().manual_seed(0)}
        options |= OPTIONS[request.param] | changes
        return ATTACKS[request.param](model, images, labels, **options)

    return run


@pytest.fixture(scope="module")
def expected(attack):
    """What the attack makes of the images and labels as they are."""
    return attack()


def answer(change):
    return lambda images: change(MODEL(images))


def in_place(images):
    images.mul_(2).sub_(0.5)
    return MODEL(images)


def not_in_place(images):
    return MODEL(images * 2 - 0.5)


def out_of(model):
    with torch.inference_mode():
        return model()


@pytest.mark.parametrize(
    "labels",
    [
        LABELS.int(),
        LABELS.to(torch.uint8),
        LABELS[:, None],
        LABELS[:, None].short(),
        nn.functional.one_hot(LABELS, 4),
        nn.functional.one_hot(LABELS, 4).float(),
        nn.functional.one_hot(LABELS, 4).bool(),
        out_of(LABELS.clone),
    ],
    ids=lambda labels: f"{labels.dtype}-{tuple(labels.shape)}",
)
def test_labels_of_any_form_are_those_classes(attack, expected, labels):
    assert torch.equal(attack(labels=labels), expected)


@pytest.mark.parametrize(
    "model",
    [
        answer(lambda logits: (logits,)),
        answer(lambda logits: [logits, None]),
        answer(lambda logits: (logits.sum(), logits)),
        answer(lambda logits: {"logits": logits, "features": logits[:, :3]}),
        answer(lambda logits: {"out": logits}),
        answer(lambda logits: SimpleNamespace(logits=logits, features=logits[:, :3])),
        answer(lambda logits: logits[..., None, None]),
    ],
)
def test_logits_are_found_where_there_is_one_choice(attack, expected, model):
    assert torch.equal(attack(model), expected)


def test_network_that_works_in_place_is_attacked_on_the_images_themselves(attack):
    labels = not_in_place(IMAGES).argmax(1)
    kept = IMAGES.clone()
    assert torch.equal(attack(in_place, labels=labels), attack(not_in_place, labels=labels))
    assert torch.equal(IMAGES, kept)


def test_inference_mode_changes_nothing(attack, expected):
    with torch.inference_mode():
        assert torch.equal(attack(images=IMAGES.clone(), labels=LABELS.clone()), expected)
        assert torch.is_inference_mode_enabled()


def test_autocast_of_the_caller_changes_nothing(attack, expected):
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(attack(), expected)


def test_rounding_below_zero_is_clamped_and_said(attack, caplog):
    images = IMAGES.clone()
    images[0, 0] = 0
    expected = attack(images=images)
    shifted = images - 3e-8 * (images == 0)
    assert torch.equal(attack(images=shifted), expected)
    assert "images with values from -3e-08 to" in caplog.text


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("threat_model", ["linf", "l2"])
def test_images_of_any_precision_keep_it_and_the_ball(attack, dtype, threat_model, request):
    name = {"name": "PGDL2"} if threat_model == "l2" and "torchattack" in request.node.name else {}
    images, epsilon = IMAGES.to(dtype), {"linf": 8 / 255, "l2": 0.5}[threat_model]
    labels = MODEL(IMAGES).argmax(1)
    adv_images = attack(
        images=images, labels=labels, threat_model=threat_model, epsilon=epsilon, **name
    )
    change = (adv_images.double() - images.double()).flatten(1)
    distance = change.abs().amax(1) if threat_model == "linf" else change.norm(dim=1)
    assert adv_images.dtype == dtype
    assert 0 < distance.max() <= epsilon + 1e-6
    assert 0 <= adv_images.min() <= adv_images.max() <= 1


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_network_of_any_precision_is_attacked_in_its_own(attack, dtype):
    model = make_model().to(dtype)
    labels = model(IMAGES.to(dtype)).argmax(1)
    adv_images = attack(model, labels=labels)
    assert adv_images.dtype == torch.float32
    assert 0.05 < (adv_images - IMAGES).abs().max() <= 0.1 + 1e-6


def detached(images):
    return MODEL(images.detach())


def optimizes(images):
    """A purification: climbs a loss of its own, where an attack or a verdict forbids gradients."""
    shift = torch.zeros_like(images, requires_grad=True)
    with torch.enable_grad():
        (gradient,) = torch.autograd.grad(MODEL(images.detach() + shift).square().sum(), shift)
    return MODEL(images.detach() - 0.1 * gradient.sign())


def optimizes_badly(images):
    shift = torch.zeros_like(images)
    (gradient,) = torch.autograd.grad(MODEL(images + shift).square().sum(), shift)
    return MODEL(images - 0.1 * gradient.sign())


def rooted(images):
    return MODEL(images) + (images - images).flatten(1).abs().sqrt().sum(1, keepdim=True)


def broken(images):
    return MODEL(images).div(0) - MODEL(images).div(0)


def by_numpy(images):
    return MODEL(torch.from_numpy(images.numpy().copy()))


@pytest.mark.parametrize("attack", set(ATTACKS) - {"worst"}, indirect=True)
@pytest.mark.parametrize("model", [detached, optimizes, by_numpy])
def test_network_without_a_gradient_is_refused_by_attacks_that_follow_one(attack, model):
    with pytest.raises(
        InputError, match=r"must have a gradient with respect to its images.*without detach"
    ):
        attack(model)


@pytest.mark.parametrize("attack", ["worst"], indirect=True)
@pytest.mark.parametrize("model", [detached, optimizes, by_numpy])
def test_network_without_a_gradient_is_searched_by_worst(attack, model, caplog):
    images, labels = IMAGES, MODEL(IMAGES).argmax(1)
    adv_images = attack(model, images, labels, epsilon=0.3)
    assert (model(adv_images.detach()).argmax(1) != labels).sum() > 1
    assert "worst searches without gradients" in caplog.text


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (optimizes_badly, "the network fails on images of shape .*: .*"),
        (
            rooted,
            "gradients must be finite, but the network gave (nan|inf) for image 0 of its batch",
        ),
        (broken, "logits must be finite, but the network gave nan for image 0 of its batch"),
        (answer(lambda logits: logits[:, :1]), r"at least 2 classes, got torch.float32 of shape"),
        (answer(lambda logits: logits[:, 0]), r"got torch.float32 of shape \(\d+,\) for"),
        (answer(lambda logits: logits.argmax(1)), r"got torch.int64 of shape"),
        (answer(lambda logits: (logits, logits)), r"got a tuple of torch.float32 of shape"),
        (answer(lambda logits: {"a": logits, "b": logits}), "got a dict of a, b for"),
        (answer(lambda logits: None), "got a NoneType for"),
        (answer(lambda logits: logits[:1].repeat(9, 1)), r"got torch.float32 of shape \(9, 4\)"),
        (
            answer(lambda logits: logits[:, :3]),
            "labels must be from 0 to 2, since the network has 3",
        ),
        (nn.Linear(5, 2), r"the network fails on images of shape \(\d, 3, 2, 2\) in torch.float32"),
    ],
)
def test_network_that_no_attack_can_use_is_refused(attack, model, message):
    with pytest.raises(InputError, match=message):
        attack(model)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"images": IMAGES.numpy()}, "images must be floating point.*got a ndarray"),
        ({"images": IMAGES.to("meta")}, "on no device"),
        ({"images": IMAGES.to_sparse()}, "torch.sparse_coo"),
        ({"images": IMAGES[0, 0, 0, 0]}, r"of shape \(\)"),
        ({"images": IMAGES * (1 + 1e0)}, r"must lie in \[0, 1\]"),
        ({"images": IMAGES * 0 - 1e-5}, r"must lie in \[0, 1\]"),
        ({"images": (IMAGES * 255).long()}, "got torch.int64"),
        (
            {"labels": LABELS + 1},
            "labels must be from 0 to 3, since the network has 4 classes, got 4; sub",
        ),
        ({"labels": LABELS - 1}, "labels must be classes from 0, got -1 for image"),
        ({"labels": LABELS.tolist()}, "got a list"),
        ({"labels": LABELS.to("meta")}, "got a tensor on no device"),
        ({"labels": LABELS.float()}, "got torch.float32"),
        ({"labels": torch.full((6, 4), 0.25)}, r"got torch.float32 of shape \(6, 4\)"),
        ({"labels": LABELS[:5]}, r"labels must be int64 of shape \(6,\)"),
        ({"labels": LABELS > 1}, "got torch.bool"),
        ({"epsilon": 1e-99}, "epsilon must be 0, or from 1e-06 to 1, such as 8/255, got 1e-99"),
        ({"epsilon": float("nan")}, "epsilon must be 0, or from 1e-06 to 1"),
        ({"epsilon": "8/255"}, "epsilon must be 0, or from 1e-06 to 1"),
        ({"epsilon": None}, "epsilon must be 0, or from 1e-06 to 1"),
        ({"epsilon": 1000, "threat_model": "l2"}, "epsilon must be 0, or from 1e-06 to 100"),
    ],
)
def test_what_no_attack_takes_is_refused(attack, change, message):
    with pytest.raises(InputError, match=message):
        attack(**change)


def test_logits_model_has_the_mode_of_the_network():
    model = make_model()
    wrapped = LogitsModel(model)
    wrapped.train()
    assert model.training
    assert wrapped.training
    wrapped.eval()
    assert not model.training
    assert not LogitsModel(lambda images: images).training


@pytest.mark.parametrize("threat_model", ["linf", "l2"])
@pytest.mark.parametrize("name", ["pgd", "fgsm", "worst"])
def test_default_device_of_the_caller_changes_nothing(name, threat_model):
    """On the meta device, unlike on a GPU, every tensor made without a device is found."""

    def coarse(images):  # worst also searches by squares
        return MODEL((8 * images).round() / 8)

    def run():
        generator = torch.Generator().manual_seed(0)
        options = {"epsilon": 0.1, "threat_model": threat_model, "generator": generator}
        options |= OPTIONS[name] | ({"queries": 20} if name == "worst" else {})
        return ATTACKS[name](coarse, IMAGES, LABELS, **options)

    expected = run()
    with torch.device("meta"):
        assert torch.equal(run(), expected)


def test_start_made_in_inference_mode_is_taken():
    arguments = {"epsilon": 0.1, "step_size": 0.05, "steps": 2}
    start = (IMAGES + 0.05).clamp(0, 1)
    expected = ATTACKS["pgd"](make_model(), IMAGES, LABELS, start=start, **arguments)
    with torch.inference_mode():
        made = (IMAGES + 0.05).clamp(0, 1)
    model = make_model()
    with torch.inference_mode():
        found = ATTACKS["pgd"](model, IMAGES, LABELS, start=made, **arguments)
    assert made.is_inference()
    assert torch.equal(found, expected)


def test_admitted_images_and_labels_are_not_the_caller_s():
    labels = admit_labels(LABELS, IMAGES)
    labels += 1
    assert LABELS.max() <= 3
    assert admit_images(IMAGES.clone().requires_grad_()).requires_grad is False


def test_every_attack_goes_through_the_gate():
    for name in ATTACKS:
        source = inspect.getsource(ATTACKS[name])
        assert "admit(" in source or "return pgd(" in source, name


def test_logits_named_so_are_preferred():
    logits, others = torch.zeros(2, 3), torch.ones(2, 3)
    assert find_logits({"logits": logits, "aux": others}, 2) is not None
    assert torch.equal(find_logits({"aux": others, "logits": logits}, 2), logits)

"""The attacks compared with their peers on a trained network, 500 images."""

import warnings

import pyautoattack
import pytest
import torch
import torchattacks

from robustnorm import bind
from robustnorm.attacks import autoattack, pgd

EPSILON, STEP_SIZE, STEPS = 3 / 16, 3 / 64, 10


@pytest.fixture(scope="module", params=["clean", "adv"])
def case(request, trained):
    model, images, labels = trained("tiny-auxbn")
    assert len(images) == 500
    return bind(model, request.param), images.float() / 255, labels


def start_of_torchattacks(images):
    """The random start that the peer draws from the global state after this seed."""
    torch.manual_seed(0)
    start = (images + torch.empty_like(images).uniform_(-EPSILON, EPSILON)).clamp(0, 1)
    torch.manual_seed(0)
    return start


@torch.no_grad()
def correct(model, images, labels):
    return model(images).argmax(1) == labels


@pytest.mark.parametrize("peer", ["torchattacks", "foolbox"])
def test_pgd_gives_the_peer_s_verdict_on_nearly_every_image(case, peer):
    """float32: a sign of a gradient near 0 may differ, 99.5 % of verdicts must not."""
    model, images, labels = case
    start = start_of_torchattacks(images)
    if peer == "torchattacks":
        attack = torchattacks.PGD(model, eps=EPSILON, alpha=STEP_SIZE, steps=STEPS)
        expected = attack(images, labels)
    else:
        with warnings.catch_warnings():  # of its own import of a name that scipy will drop
            warnings.filterwarnings("ignore", "Please import `gaussian_filter`", DeprecationWarning)
            import eagerpy
            import foolbox
        attack = foolbox.attacks.LinfPGD(abs_stepsize=STEP_SIZE, steps=STEPS, random_start=False)
        # Put where it would draw a start of its own.
        start_there = eagerpy.astensor(start)
        attack.random_start, attack.get_random_start = True, lambda *_: start_there
        network = foolbox.PyTorchModel(model, bounds=(0, 1), device="cpu")
        criterion = foolbox.criteria.Misclassification(labels)
        expected = attack.run(network, images, criterion, epsilon=EPSILON)
    adv_images = pgd(
        model,
        images,
        labels,
        epsilon=EPSILON,
        step_size=STEP_SIZE,
        steps=STEPS,
        start=start,
    )
    same = correct(model, adv_images, labels) == correct(model, expected, labels)
    assert same.float().mean() >= 0.995
    assert not torch.equal(adv_images, images)
    assert correct(model, adv_images, labels).sum() < correct(model, images, labels).sum() - 50


def test_autoattack_equals_its_authors_code_bit_for_bit(case):
    """Square alone with a budget of a few queries, for time: it is the part that draws most."""
    model, images, labels = case

    def short(attack):
        attack.square.n_queries = 10
        return attack

    original, made = pyautoattack.AutoAttack, []

    def shortened(*arguments, **options):
        made.append(short(original(*arguments, **options)))
        return made[-1]

    seed = int(torch.randint(2**31, (), generator=torch.Generator().manual_seed(4)))
    direct = short(
        original(model, norm="Linf", eps=EPSILON, seed=seed, version="custom", attacks=["square"])
    )
    expected, _ = direct.run_standard_evaluation(images, labels)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pyautoattack, "AutoAttack", shortened)
        adv_images = autoattack(
            model,
            images,
            labels,
            epsilon=EPSILON,
            generator=torch.Generator().manual_seed(4),
            attacks_to_run=["square"],
        )
    assert len(made) == 1
    assert torch.equal(adv_images, expected)
    assert correct(model, adv_images, labels).sum() < correct(model, images, labels).sum()

"""The contract of every attack in ATTACKS; a new one needs one line in OPTIONS."""

import copy
import random
import sys

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from robustnorm.attacks import ATTACKS

EPSILON = 0.05
OPTIONS = {
    "pgd": {"step_size": 0.02, "steps": 3},
    "fgsm": {},
    "autoattack": {"attacks_to_run": ["apgd-ce"]},
    "torchattack": {"name": "PGD", "alpha": 0.02, "steps": 3},
    "worst": {"steps": 4, "restarts": 4},
}
RANDOM = ["pgd", "autoattack", "torchattack"]


def make_model():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(2, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Flatten(), nn.Linear(54, 10)
    ).eval()


def make_inputs(n=6):
    generator = torch.Generator().manual_seed(1)
    images = torch.rand(n, 2, 5, 5, generator=generator)
    return images, make_model()(images).argmax(1)


@pytest.fixture(params=ATTACKS)
def attack(request, short_autoattack):
    options = OPTIONS[request.param]

    def run(model, images, labels, seed=0, **changes):
        arguments = {"epsilon": EPSILON, "generator": torch.Generator().manual_seed(seed)}
        return ATTACKS[request.param](model, images, labels, **(arguments | options | changes))

    return run


@pytest.mark.parametrize("threat_model", ["linf", "l2"])
def test_attack_returns_images_in_the_ball(attack, threat_model, request):
    epsilon = {"linf": 0.05, "l2": 0.5}[threat_model]
    options = {"threat_model": threat_model, "epsilon": epsilon}
    if threat_model == "l2" and "torchattack" in request.node.name:
        options |= {"name": "PGDL2"}
    images, labels = make_inputs()
    adv_images = attack(make_model(), images, labels, **options)
    assert (adv_images.shape, adv_images.dtype) == (images.shape, images.dtype)
    assert not adv_images.requires_grad
    assert adv_images.min() >= 0
    assert adv_images.max() <= 1
    change = (adv_images - images).flatten(1)
    distance = change.abs().amax(1) if threat_model == "linf" else change.norm(dim=1)
    assert distance.max() <= epsilon + 1e-6  # float32 rounding of values up to 1
    assert distance.max() > epsilon / 10


def test_attack_lowers_the_accuracy(attack):
    images, labels = make_inputs(40)
    adv_images = attack(make_model(), images, labels, epsilon=0.2)
    assert (make_model()(adv_images).argmax(1) == labels).float().mean() < 0.7


def test_attack_is_deterministic_given_the_generator(attack):
    images, labels = make_inputs()
    first, second = (attack(make_model(), images, labels, seed=7) for _ in range(2))
    assert torch.equal(first, second)


def test_attack_changes_no_mode_buffer_parameter_or_gradient(attack):
    model = make_model()
    model[1].train()
    before = copy.deepcopy(model.state_dict())
    modes = [module.training for module in model.modules()]
    images, labels = make_inputs()
    attack(model, images, labels)
    assert [module.training for module in model.modules()] == modes
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert all(parameter.requires_grad for parameter in model.parameters())


@pytest.mark.parametrize("mode", [True, False])
def test_forward_before_an_attack_keeps_its_backward(attack, mode):
    images, labels = make_inputs()
    gradients = []
    for attacked in (False, True):
        model = make_model().train(mode)
        loss = F.cross_entropy(model(images), labels)
        if attacked:
            attack(model, images, labels)
        loss.backward()
        gradients.append([parameter.grad for parameter in model.parameters()])
    assert all(map(torch.equal, *gradients))


class AverageOfImages(nn.Module):
    """Assigns a new tensor to its buffer in each forward of train mode."""

    def __init__(self):
        super().__init__()
        self.network = make_model()
        self.register_buffer("average", torch.tensor(0.25))

    def forward(self, images):
        if self.training:
            self.average = 0.9 * self.average + 0.1 * images.detach().mean()
        return self.network(images)


def test_attack_restores_a_buffer_that_the_forward_replaces(attack):
    model = AverageOfImages().train()
    buffer = model.average
    attack(model, *make_inputs())
    assert model.average is buffer
    assert buffer == 0.25


@pytest.mark.filterwarnings("ignore:`torch.jit.(script|freeze)` is deprecated")
def test_frozen_torchscript_is_attacked(attack):
    images, labels = make_inputs()
    frozen = torch.jit.freeze(torch.jit.script(make_model()))
    assert not hasattr(frozen, "training")
    expected = attack(make_model(), images, labels)
    # Freezing folds the batch norm into the convolution: some signs of small gradients may change.
    close = (attack(frozen, images, labels) - expected).abs() < 1e-4
    assert close.float().mean() > 0.9


def test_attack_changes_no_input(attack):
    images, labels = make_inputs()
    kept = images.clone(), labels.clone()
    attack(make_model(), images, labels)
    assert torch.equal(images, kept[0])
    assert torch.equal(labels, kept[1])
    assert not images.requires_grad
    assert images.grad is None


def test_attack_changes_no_global_random_state(attack):
    model = make_model()
    images, labels = make_inputs()
    before = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()
    attack(model, images, labels)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert np.array_equal(np.random.get_state()[1], before[1])
    assert random.getstate() == before[2]


def test_attack_does_not_depend_on_the_global_random_state(attack):
    model = make_model()
    images, labels = make_inputs()
    results = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        np.random.seed(seed)
        random.seed(seed)
        results.append(attack(model, images, labels))
    assert torch.equal(*results)


def test_attack_works_under_no_grad(attack):
    images, labels = make_inputs()
    expected = attack(make_model(), images, labels)
    with torch.no_grad():
        assert torch.equal(attack(make_model(), images, labels), expected)
        assert not torch.is_grad_enabled()


def test_attack_takes_any_callable(attack):
    model = make_model()
    images, labels = make_inputs()
    expected = attack(model, images, labels)
    assert torch.equal(attack(lambda inputs: model(inputs), images, labels), expected)


def test_attack_keeps_the_caller_s_mode_while_it_runs(attack):
    model = make_model()
    model[1].train()
    seen = set()
    model[1].register_forward_pre_hook(lambda module, _: seen.add(module.training))
    attack(model, *make_inputs())
    assert seen == {True}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"images": torch.full((6, 2, 5, 5), 1.5)}, r"must lie in \[0, 1\].*inside the model"),
        ({"images": torch.full((6, 2, 5, 5), torch.nan)}, r"must lie in \[0, 1\]"),
        ({"images": torch.zeros(6, 2, 5, 5, dtype=torch.uint8)}, "must be floating point"),
        ({"labels": torch.zeros(5, dtype=torch.int64)}, r"labels must be int64 of shape \(6,\)"),
        ({"labels": torch.zeros(6)}, "labels must be int64"),
        ({"epsilon": -0.1}, "epsilon must be 0, or from 1e-06 to 1, such as 8/255, got -0.1"),
        ({"epsilon": 8}, "epsilon must be 0, or from 1e-06 to 1, such as 8/255, got 8"),
        ({"epsilon": 1e-99}, "epsilon must be 0, or from 1e-06"),
        ({"epsilon": "8/255"}, "epsilon must be 0, or from 1e-06"),
        ({"threat_model": "linff"}, "unknown threat model 'linff'"),
    ],
)
def test_attack_refuses_bad_inputs(attack, change, message):
    images, labels = make_inputs()
    arguments = {"images": images, "labels": labels} | change
    with pytest.raises(ValueError, match=message):
        attack(make_model(), **arguments)


@pytest.mark.parametrize("name", RANDOM)
def test_random_attack_refuses_to_run_without_a_generator(name):
    with pytest.raises(ValueError, match="this attack is random: pass generator="):
        ATTACKS[name](make_model(), *make_inputs(), epsilon=EPSILON, **OPTIONS[name])


@pytest.mark.parametrize(
    ("name", "packages"),
    [("autoattack", ["pyautoattack", "autoattack"]), ("torchattack", ["torchattacks"])],
)
def test_adapter_names_the_extra_when_its_package_is_missing(name, packages, monkeypatch):
    for package in packages:
        monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ImportError, match=r'pip install "robustnorm\[peers\]"'):
        ATTACKS[name](
            make_model(),
            *make_inputs(),
            epsilon=EPSILON,
            generator=torch.Generator(),
            **OPTIONS[name],
        )

"""Gradient diagnostics against formulas written out, on networks small enough for float64."""

import itertools
import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from scipy import stats
from torch import nn
from torch.func import functional_call, grad, vmap
from torch.nn import functional as F

from robustnorm import bind, preact_resnet18, resnet18
from robustnorm.attacks import pgd
from robustnorm.evaluation.chunks import CHUNK
from robustnorm.evaluation.diversity import stage_weights
from robustnorm.evaluation.search import Search, random_start
from robustnorm.norms import ModeNorm
from robustnorm.norms.routing import routed_layers
from robustnorm.settings.groups import BranchAttack
from robustnorm.studies.diagnosis import diagnose
from robustnorm.studies.gradients import Group, gradient_diversity

SEARCH = Search(epsilon=8 / 255, step_size=2 / 255, steps=(2,), seed=3)


def make_model(norm="auxbn", dtype=torch.float64, build=resnet18):
    """A network whose branches differ, as after training."""
    torch.manual_seed(0)
    model = build(norm=norm, width=4, num_classes=3).to(dtype).eval()
    for layer in routed_layers(model):
        with torch.no_grad():
            layer.running_mean.normal_(0, 0.1)
            layer.running_var.uniform_(0.5, 1.5)
            layer.weight.uniform_(0.5, 1.5)
    return model


def make_images(n, dtype=torch.float64, seed=0, size=8):
    generator = torch.Generator().manual_seed(seed)
    images = torch.rand(n, 3, size, size, generator=generator, dtype=torch.float64).to(dtype)
    return images, torch.arange(n) % 3


def by_class(branch, images, labels):
    return [Group(branch, images[labels == c], labels[labels == c]) for c in range(3)]


def expected(model, groups, prefix):
    """Norms' deviation and mean, and the mean cosine, from per-sample gradients of torch.func."""
    vectors = []
    for branch, images, labels in groups:
        bound = bind(model, branch)
        names = [
            f"model.{name}.weight"
            for name, module in model.named_modules()
            if name.startswith(prefix) and isinstance(module, nn.Conv2d)
        ]
        weights = {name: bound.get_parameter(name).detach() for name in names}

        def loss(weights, image, label, bound=bound):
            logits = functional_call(bound, weights, (image[None],))
            return -F.log_softmax(logits, 1)[0].gather(0, label[None]).sum()

        each = vmap(grad(loss), in_dims=(None, 0, 0))(weights, images, labels)
        vectors.append(
            np.concatenate([each[name].detach().mean(0).flatten().numpy() for name in names])
        )
    norms = [math.sqrt(sum(v * v)) for v in vectors]
    mean = sum(norms) / len(norms)
    deviation = math.sqrt(sum((norm - mean) ** 2 for norm in norms) / len(norms))
    pairs = list(itertools.permutations(range(len(vectors)), 2))
    cosine = sum(vectors[i] @ vectors[j] / (norms[i] * norms[j]) for i, j in pairs) / len(pairs)
    return deviation, mean, cosine


@pytest.mark.parametrize("kind", ["branches", "classes"])
@pytest.mark.parametrize("prefix", ["conv1", "layer2", "layer4"])
def test_diversity_is_the_formula_written_out(kind, prefix):
    model = make_model()
    images, labels = make_images(9)
    if kind == "branches":
        groups = [Group("clean", images, labels), Group("adv", 1 - images, labels)]
    else:
        groups = by_class("adv", images, labels)
    (stage,) = [s for s in gradient_diversity(model, [groups]) if s.stage == prefix]
    # Both in float64: what is left is the order of the sums.
    assert stage[1:4] == pytest.approx(expected(model, groups, prefix), rel=1e-9)


def linear_model():
    """Two classes, all logits 0: the gradient of an image x is x times (+-1/2, -+1/2)."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 2, bias=False)).double().eval()
    nn.init.zeros_(model[1].weight)
    return model


def test_known_answers_of_two_groups():
    model = linear_model()
    image = torch.tensor([0.1, 0.2, 0.2, 0.4], dtype=torch.float64).view(1, 1, 2, 2)  # norm 0.5
    zero, one = torch.tensor([0]), torch.tensor([1])
    norm = 0.5 * math.sqrt(0.5)

    def measured(*groups):
        (stage,) = gradient_diversity(model, [groups])
        return stage[1:4]

    first = Group("clean", image, zero)
    # rel: float64's rounding over a few sums.
    assert measured(first, first) == pytest.approx((0, norm, 1), rel=1e-12, abs=1e-12)
    opposed = Group("clean", image, one)
    assert measured(first, opposed) == pytest.approx((0, norm, -1), rel=1e-12, abs=1e-12)
    twice = Group("clean", 2 * image, zero)
    assert measured(first, twice) == pytest.approx((norm / 2, 1.5 * norm, 1), rel=1e-12)
    apart = image * torch.tensor([[1.0, -1.0], [-1.0, 1.0]])  # inner product 0.09 of 0.25
    away = Group("clean", apart, zero)
    assert measured(first, away)[2] == pytest.approx(0.09 / 0.25, rel=1e-12)


def test_order_of_groups_and_repeated_images_change_nothing():
    model = make_model()
    images, labels = make_images(12)
    groups = by_class("clean", images, labels)
    twice = [Group(b, x.repeat(2, 1, 1, 1), y.repeat(2)) for b, x, y in groups[::-1]]
    for one, other in zip(
        gradient_diversity(model, [groups]), gradient_diversity(model, [twice]), strict=True
    ):
        assert one[1:4] == pytest.approx(other[1:4], rel=1e-9)  # float64, sums in another order


def test_group_larger_than_a_chunk_has_the_gradient_of_its_mean_loss():
    model = make_model()
    images, labels = make_images(CHUNK + 20, size=4)
    groups = [Group("clean", images, labels), Group("adv", images, labels)]
    found = gradient_diversity(model, [groups])
    norms = []
    for branch, x, y in groups:
        loss = F.cross_entropy(bind(model, branch)(x), y)
        norms.append(torch.autograd.grad(loss, model.conv1.weight)[0].norm().item())
    assert found[0].mean_norm == pytest.approx(sum(norms) / 2, rel=1e-9)
    assert found[0].std_of_norms == pytest.approx(abs(norms[0] - norms[1]) / 2, rel=1e-9)


def test_batches_are_averaged_and_give_students_interval():
    model = make_model()
    batches = [by_class("clean", *make_images(9, seed=seed)) for seed in range(4)]
    together = gradient_diversity(model, batches)
    alone = [gradient_diversity(model, [groups]) for groups in batches]
    for i, stage in enumerate(together):
        for value, interval in (
            ("std_of_norms", "std_interval"),
            ("mean_cosine", "cosine_interval"),
        ):
            values = [getattr(batch[i], value) for batch in alone]
            assert getattr(stage, value) == pytest.approx(np.mean(values), rel=1e-12)
            low, high = stats.t.interval(0.95, 3, np.mean(values), stats.sem(values))
            assert getattr(stage, interval) == pytest.approx((low, high), rel=1e-9)
    assert alone[0][0].std_interval is None
    assert alone[0][0].cosine_interval is None


@pytest.mark.parametrize("build", [resnet18, preact_resnet18])
def test_stages_are_those_of_the_resnet_without_the_gates_of_its_norms(build):
    model = build(norm="modenorm", width=4)
    stages = stage_weights(model)
    assert list(stages) == ["conv1", "layer1", "layer2", "layer3", "layer4", "fc"]
    found = {id(weight) for weights in stages.values() for weight in weights}
    gates = {id(m.gate.weight) for m in model.modules() if isinstance(m, ModeNorm)}
    matrices = {id(p) for p in model.parameters() if p.dim() > 1}
    assert gates
    assert found == matrices - gates


def test_gate_defined_after_the_classifier_is_no_stage():
    network = nn.ModuleDict(
        {"fc": nn.Linear(4, 3), "conv": nn.Conv2d(3, 4, 3), "norm": ModeNorm(4)}
    )
    assert stage_weights(network) == {
        "fc": [network["fc"].weight],
        "conv": [network["conv"].weight],
    }


def test_stages_of_another_module_tree_are_its_children_inside_wrappers():
    inner = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.Flatten())
    assert list(stage_weights(inner)) == ["0", "2"]
    wrapped = nn.Sequential(nn.Identity(), nn.ModuleDict({"net": inner}))
    assert list(stage_weights(wrapped)) == ["0", "2"]
    assert list(stage_weights(nn.ModuleDict({"body": inner, "head": nn.Linear(4, 2)}))) == [
        "body",
        "head",
    ]


def test_diagnose_does_not_depend_on_the_default_device():
    """On the meta device, unlike on a GPU, every tensor made without a device is found."""
    model, (images, labels) = make_model(dtype=torch.float32), make_images(12, torch.float32)
    given = {"num_classes": 3, "search": SEARCH, "batches": 2}
    expected = diagnose(model, images, labels, **given)
    with torch.device("meta"):
        assert diagnose(model, images, labels, **given) == expected


def test_diagnose_compares_clean_and_pgd_images_each_through_its_branch():
    model = make_model(dtype=torch.float32)
    images, labels = make_images(12, torch.float32)
    found = diagnose(model, images, labels, num_classes=3, search=SEARCH, batches=1)
    adv_images = pgd(
        bind(model, "adv"),
        images,
        labels,
        epsilon=8 / 255,
        step_size=2 / 255,
        steps=2,
        start=random_start(images, torch.arange(12), SEARCH),
    )
    groups = [Group("clean", images, labels), Group("adv", adv_images, labels)]
    pairs = [(found.branches, gradient_diversity(model, [groups]))]
    for branch, x in (("clean", images), ("adv", adv_images)):
        pairs.append(
            (found.classes[branch], gradient_diversity(model, [by_class(branch, x, labels)]))
        )
    for ours, theirs in pairs:
        for one, other in zip(ours, theirs, strict=True):
            # float32 gradients summed in another order, through 18 layers.
            assert one[1:4] == pytest.approx(other[1:4], rel=1e-4, abs=1e-5)


def test_diagnose_attacks_each_branch_in_its_own_ball():
    torch.manual_seed(0)
    model = resnet18(norm="auxbn", width=4, num_classes=3, branches=("clean", "linf", "l2")).eval()
    images, labels = make_images(12, torch.float32)
    ball = BranchAttack("l2", Fraction(1, 2), Fraction(1, 8))
    search = SEARCH._replace(
        branch_attacks={"linf": BranchAttack("linf", *[Fraction(2, 255)] * 2), "l2": ball}
    )
    found = diagnose(model, images, labels, num_classes=3, search=search, batches=1)
    assert list(found.classes) == ["clean", "linf", "l2"]
    adv_images = pgd(
        bind(model, "l2"),
        images,
        labels,
        epsilon=0.5,
        step_size=0.125,
        steps=2,
        threat_model="l2",
        start=random_start(images, torch.arange(12), search.for_branch("l2")),
    )
    expected = gradient_diversity(model, [by_class("l2", adv_images, labels)])
    for one, other in zip(found.classes["l2"], expected, strict=True):
        assert one[1:4] == pytest.approx(other[1:4], rel=1e-4, abs=1e-5)  # as above
    plain = make_model("bn", torch.float32)
    same = diagnose(plain, images, labels, num_classes=3, search=search, batches=1)
    assert list(same.classes) == ["clean", "linf", "l2"]


def test_diagnose_of_a_network_without_branches_sends_both_through_the_same_layers():
    model = make_model("bn", torch.float32)
    images, labels = make_images(12, torch.float32)
    found = diagnose(model, images, labels, num_classes=3, search=SEARCH, batches=2)
    assert list(found.classes) == ["clean", "adv"]
    still = SEARCH._replace(epsilon=0.0)  # adversarial images are the images
    same = diagnose(model, images, labels, num_classes=3, search=still, batches=2)
    for stage in same.branches:
        assert (stage.std_of_norms, stage.mean_cosine) == pytest.approx((0, 1), abs=1e-6)
    assert found.branches[0].std_of_norms > 0


def test_diagnose_takes_uint8_images_and_depends_on_the_seed_alone():
    model = make_model(dtype=torch.float32)
    images, labels = make_images(12, torch.float32)
    pixels = (images * 255).round().to(torch.uint8)
    settings = {"num_classes": 3, "batches": 2}
    once = diagnose(model, pixels, labels, search=SEARCH, **settings)
    torch.manual_seed(17)
    assert diagnose(model, pixels, labels, search=SEARCH, **settings) == once
    assert diagnose(model, pixels.float() / 255, labels, search=SEARCH, **settings) == once
    other = diagnose(model, pixels, labels, search=SEARCH._replace(seed=4), **settings)
    assert other != once


@pytest.mark.parametrize("norm", ["modenorm", "saauxbn"])
def test_diagnose_leaves_everything_as_it_was(norm):
    model = make_model(norm, torch.float32)
    images, labels = make_images(6, torch.float32)
    model.fc.weight.grad = torch.ones_like(model.fc.weight)
    state = {name: value.clone() for name, value in model.state_dict().items()}
    given, random_state = images.clone(), torch.get_rng_state()
    diagnose(model, images, labels, num_classes=3, search=SEARCH, batches=1)
    assert not any(module.training for module in model.modules())
    assert all(value.equal(state[name]) for name, value in model.state_dict().items())
    assert model.fc.weight.grad.equal(torch.ones_like(model.fc.weight))
    assert model.conv1.weight.grad is None
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert images.equal(given)
    assert torch.get_rng_state().equal(random_state)


def test_unsound_input_is_refused():
    model = make_model(dtype=torch.float32)
    images, labels = make_images(6, torch.float32)
    group = Group("clean", images, labels)
    empty = Group("adv", images[:0], labels[:0])
    for batches, message in (
        ([], "at least one batch, got none"),
        ([[group]], "at least two groups to compare, got 1"),
        ([[group, empty]], r"a group \(branch 'adv'\) has no image"),
    ):
        with pytest.raises(ValueError, match=message):
            gradient_diversity(model, batches)
    with pytest.raises(ValueError, match="pass the model, not bind"):
        gradient_diversity(bind(model, "adv"), [[group, group]])
    with pytest.raises(ValueError, match=r"call model\.eval\(\) first"):
        gradient_diversity(make_model().train(), [[group, group]])
    with pytest.raises(ValueError, match="Sequential has none"):
        stage_weights(nn.Sequential(nn.Conv2d(3, 3, 1).requires_grad_(False)))


def test_gradient_that_is_zero_or_not_a_number_has_no_direction():
    model = linear_model()
    dark = Group("clean", torch.zeros(1, 1, 2, 2, dtype=torch.float64), torch.tensor([0]))
    light = Group("clean", torch.ones(1, 1, 2, 2, dtype=torch.float64), torch.tensor([0]))
    with pytest.raises(ValueError, match=r"gradient of 1 for group 1 .* has norm 0"):
        gradient_diversity(model, [[light, dark]])
    model[1].weight.data.fill_(math.nan)
    with pytest.raises(ValueError, match=r"gradient of 1 for group 0 .* has norm nan"):
        gradient_diversity(model, [[light, light]])


@pytest.mark.parametrize(("num_classes", "batches"), [(3, 5), (4, 1)])
def test_class_with_too_few_images_is_refused_before_the_attack(num_classes, batches):
    images, labels = make_images(12, torch.float32)
    settings = {"num_classes": num_classes, "batches": batches, "search": SEARCH}
    with pytest.raises(ValueError, match="needs an image of every class, but class"):
        diagnose(make_model("bn", torch.float32), images, labels, **settings)

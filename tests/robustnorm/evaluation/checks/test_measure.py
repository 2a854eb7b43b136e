from fractions import Fraction

import pytest
import torch
from torch import nn

from robustnorm import resnet18
from robustnorm.evaluation import search as search_module
from robustnorm.evaluation.attack import attack_chunk
from robustnorm.evaluation.checks import measure as measure_module
from robustnorm.evaluation.checks.forwards import logit_changes
from robustnorm.evaluation.checks.measure import (
    TIERS,
    count_attacks,
    measure,
    prepare,
    surface,
)
from robustnorm.evaluation.search import Search, branches
from robustnorm.settings.groups import BranchAttack

SEARCH = Search(0.01, 0.005, (2,))
N = 6


def generator():
    return torch.Generator().manual_seed(0)


def setting():
    """A linear network of three classes that is right on every image."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 3)).eval()
    images = 0.2 + 0.6 * torch.rand(N, 1, 8, 8)
    return model, images, model(images).argmax(1)


def evidence(search=SEARCH, model=None):
    linear, images, labels = setting()
    attacked = [prepare(branch) for branch in branches(model or linear)]
    calls = []
    found = measure(
        attacked,
        images,
        labels,
        torch.arange(N),
        search,
        TIERS["quick"],
        generator(),
        lambda: calls.append(1),
    )
    assert len(calls) == count_attacks(TIERS["quick"], search, ["single"])
    return found["single"]


def test_surface_of_linf_is_the_corners():
    images = torch.full((4, 1, 5, 5), 0.5)
    moved = (surface(images, Search(0.1, 0.1, (1,)), generator()) - images).abs()
    # 0.1 in float32, added to and taken from 0.5
    torch.testing.assert_close(moved, torch.full_like(moved, 0.1), atol=1e-7, rtol=0)


def test_surface_of_l2_is_the_sphere():
    images = torch.full((4, 1, 5, 5), 0.5)
    moved = surface(images, Search(0.3, 0.1, (1,), "l2"), generator()) - images
    distances = torch.linalg.vector_norm(moved.flatten(1), dim=1)
    torch.testing.assert_close(distances, torch.full((4,), 0.3), atol=1e-6, rtol=0)


def test_every_value_is_one_of_each_image():
    assert {values.shape for values in evidence().values()} == {(N,)}


def test_no_attack_claims_more_than_the_best_point_of_a_linear_network():
    """Against each other class the best point of the ball is known: a corner."""
    model, images, labels = setting()
    weight, bias = model[1].weight, model[1].bias
    with torch.no_grad():
        logits = images.flatten(1) @ weight.T + bias
        margins = logits.gather(1, labels[:, None]) - logits
        slack = SEARCH.epsilon * (weight[labels][:, None] - weight).abs().sum(2)
        others = torch.arange(3) != labels[:, None]
        withstands = ((margins - slack) > 0)[others].view(N, 2).all(1)
    assert 0 < withstands.sum() < N
    found = evidence()
    for name in ("pgd", "longer", "margin", "fgsm", "square", "noise", "restart 1"):
        assert (found[name] | ~withstands).all(), name
    assert found["clean"].all()
    assert found["gradient"].all()
    assert found["valid"].all()


def test_attacks_are_those_that_the_checks_name(monkeypatch):
    asked = []

    def spy(attacked, images, labels, image_ids, search, *rest, **options):
        if not options:  # the margin's attack has a name
            asked.append(search)
        return attack_chunk(attacked, images, labels, image_ids, search, *rest, **options)

    monkeypatch.setattr(measure_module, "attack_chunk", spy)
    evidence()
    assert asked[0] == Search(0.01, 0.005, (2, 4))
    assert asked[1:5] == [Search(0.01, 0.005, (2,), seed=seed) for seed in (1, 2, 3, 4)]
    radii = [search.epsilon for search in asked[5:]]
    assert radii == pytest.approx([0, 8 / 255, 24 / 255, 64 / 255, 1])
    # Steps grow with the radius, so that they reach as far into the ball.
    assert [search.step_size for search in asked[6:]] == pytest.approx([r / 2 for r in radii[1:]])


def test_other_branches_are_attacked_in_the_ball_of_the_one_measured(monkeypatch):
    asked = []

    def spy(attacked, images, labels, image_ids, search, *rest, **options):
        asked.append(([branch.name for branch in attacked], search.threat_model, search.steps))
        return attack_chunk(attacked, images, labels, image_ids, search, *rest, **options)

    monkeypatch.setattr(measure_module, "attack_chunk", spy)
    _, images, labels = setting()
    names = ("clean", "linf", "l2")
    model = resnet18("auxbn", width=4, num_classes=3, in_channels=1, branches=names).eval()
    search = SEARCH._replace(
        branch_attacks={"l2": BranchAttack("l2", Fraction(1, 2), Fraction(1, 8))}
    )
    attacked = [prepare(branch) for branch in branches(model)]
    done = []
    found = measure(
        attacked, images, labels, torch.arange(N), search, TIERS["quick"], generator(),
        lambda: done.append(1),
    )  # fmt: skip
    assert len(done) == count_attacks(TIERS["quick"], search, names)
    assert [call for call in asked if call[2] == (2, 4)] == [
        (list(names), "linf", (2, 4)),
        (list(names), "l2", (2, 4)),
    ]
    alone = {("l2",): "l2", ("clean", "linf"): "linf"}
    assert all(alone[tuple(of)] == ball for of, ball, steps in asked if steps != (2, 4))
    assert {name: [key for key in found[name] if key.startswith("from")] for name in names} == {
        "clean": ["from linf", "from l2"],
        "linf": ["from clean", "from l2"],
        "l2": ["from clean", "from linf"],
    }
    assert all(found[name]["valid"].all() for name in names)


def test_attack_that_leaves_the_ball_is_noticed(monkeypatch):
    sound = search_module.pgd

    def cheats(model, images, labels, **options):
        adv_images = sound(model, images, labels, **options).clone()
        adv_images[2, 0, 0, 0] = images[2, 0, 0, 0] - 2 * SEARCH.epsilon + 1e-3
        if options["on_iterate"]:
            options["on_iterate"](2 * SEARCH.steps[0], adv_images, model(adv_images).detach())
        return adv_images

    monkeypatch.setattr(search_module, "pgd", cheats)
    assert evidence()["valid"].tolist() == [True, True, False, True, True, True]


def test_gradient_that_is_not_finite_is_none():
    class Infinite(nn.Module):
        def forward(self, images):
            first = images.flatten(1)[:, :3]
            return (first - first.detach()).sqrt() + first  # slope of the root at 0

    found = evidence(model=Infinite().eval())
    assert not found["gradient"].any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_independent_network_changes_by_rounding_only(dtype):
    model, images, _ = setting()
    branch, _ = prepare(branches(model.to(dtype))[0])
    for values in logit_changes(branch, images.to(dtype)).values():
        assert values.max() < 100 * torch.finfo(dtype).eps

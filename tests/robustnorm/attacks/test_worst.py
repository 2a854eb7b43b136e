"""The worst case on networks with a known solution, and compared with PGD on a trained one."""

import pytest
import torch
from torch import nn

from robustnorm import bind, evaluate
from robustnorm.attacks import autoattack, pgd, torchattack, worst_case
from robustnorm.attacks.blind import blind_search
from robustnorm.attacks.passes import Counted
from robustnorm.evaluation import chunks

N, CLASSES, PIXELS = 40, 5, 48


def linear_setting(classes=CLASSES, scale=1.0):
    """Images in the middle of the range, so that the ball around them is whole; float64."""
    generator = torch.Generator().manual_seed(1)
    model = nn.Sequential(nn.Flatten(), nn.Linear(PIXELS, classes)).double()
    with torch.no_grad():
        model[1].weight.copy_(torch.randn(classes, PIXELS, generator=generator) * scale)
        model[1].bias.zero_()
    images = 0.4 + 0.2 * torch.rand(N, 3, 4, 4, generator=generator, dtype=torch.float64)
    return model, images, model(images).argmax(1)


def radii(model, images, labels, threat_model):
    """The distance of each image to the nearest other class of a linear network, by hand."""
    weight = model[1].weight.detach()
    logits = images.flatten(1) @ weight.T
    margins = logits.gather(1, labels[:, None]) - logits
    change = weight[labels][:, None] - weight
    slopes = change.abs().sum(2) if threat_model == "linf" else change.norm(dim=2)
    others = torch.arange(len(weight)) != labels[:, None]
    return (margins / slopes)[others].view(len(images), -1).amin(1)


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
@pytest.mark.parametrize("classes", [2, 5, 1000])
@pytest.mark.parametrize("threat_model", ["linf", "l2"])
def test_linear_network_is_broken_exactly_where_the_margin_says_so(threat_model, classes, scale):
    model, images, labels = linear_setting(classes, scale)
    limits = radii(model, images, labels, threat_model)
    epsilon = limits.median().item()
    clear = (limits / epsilon - 1).abs() > 1e-2
    adv_images = worst_case(model, images, labels, epsilon=epsilon, threat_model=threat_model)
    broken = model(adv_images).argmax(1) != labels
    assert torch.equal(broken[clear], limits[clear] < epsilon)
    assert 0 < broken.sum() < N


@pytest.mark.parametrize("threat_model", ["linf", "l2"])
@pytest.mark.parametrize("epsilon", [0.0, 0.03, 1.0])
def test_result_never_leaves_the_ball_or_the_range(threat_model, epsilon):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(32, 4)).eval()
    images = torch.rand(20, 3, 4, 4).round(decimals=1)  # some at the ends of the range
    labels = model(images).argmax(1)
    adv_images = worst_case(model, images, labels, epsilon=epsilon, threat_model=threat_model)
    order = torch.inf if threat_model == "linf" else 2
    assert (adv_images - images).flatten(1).norm(order, dim=1).max() <= epsilon + 1e-6
    assert adv_images.min() >= 0
    assert adv_images.max() <= 1


def test_misclassified_images_come_back_as_they_were():
    model, images, labels = linear_setting()
    wrong = (labels + 1) % CLASSES
    assert torch.equal(worst_case(model, images, wrong, epsilon=0.1), images)


def test_broken_images_are_attacked_no_more():
    model, images, labels = linear_setting()
    sizes = []

    def counted(given):
        sizes.append(len(given))
        return model(given)

    limits = radii(model, images, labels, "linf")
    epsilon = limits.quantile(0.7).item()
    worst_case(counted, images, labels, epsilon=epsilon, targets=4, restarts=6, steps=12)
    withstanding = int((limits > epsilon).sum())
    assert sizes[0] == N
    assert withstanding < N / 2
    assert max(sizes) == N  # although several climbs of an image share a batch
    # A run of 12 steps looks 13 times; the others break in the first.
    assert sum(sizes) <= (4 + 6) * 13 * withstanding + 13 * N


def test_result_of_an_image_does_not_depend_on_the_others():
    model, images, labels = linear_setting()
    options = {"epsilon": radii(model, images, labels, "linf").median().item()}
    together = worst_case(model, images, labels, **options)
    for i in range(0, N, 7):
        alone = worst_case(model, images[[i]], labels[[i]], **options)
        # float64; another batch may be summed in another order.
        torch.testing.assert_close(together[[i]], alone, rtol=0, atol=1e-9)


def test_network_with_a_gradient_of_zero_gives_the_images_that_it_was_given():
    def flat(images):
        score = images.flatten(1).sum(1, keepdim=True)
        return torch.cat([1 + 0 * score, 0 * score], 1)

    images, labels = torch.rand(3, 1, 2, 2), torch.zeros(3, dtype=torch.int64)
    assert torch.equal(worst_case(flat, images, labels, epsilon=0.1), images)


@pytest.mark.parametrize(
    ("options", "got"),
    [
        ({"steps": 0}, "0, 5, 42 and 5000"),
        ({"targets": 0}, "12, 0, 42 and 5000"),
        ({"restarts": -1}, "12, 5, -1 and 5000"),
        ({"queries": -1}, "12, 5, 42 and -1"),
    ],
)
def test_worst_case_refuses_numbers_that_are_none(options, got):
    model, images, labels = linear_setting()
    with pytest.raises(ValueError, match=f"restarts and queries at least 0, got {got}"):
        worst_case(model, images, labels, epsilon=0.1, **options)


def test_classes_near_beside_their_slope_are_targets_before_likely_ones():
    """Of six classes the least likely one alone is within reach, the other way than the rest."""
    slopes = torch.tensor([0.0, 1.0, 1.0, 1.0, 1.0, -90.0])
    offsets = torch.tensor([9.0, 8.5, 8.4, 8.3, 8.2, 1.0])

    def model(images):
        return offsets + slopes * (images.flatten(1)[:, :1] - 0.5)

    images, labels = torch.full((1, 1, 1, 1), 0.5), torch.zeros(1, dtype=torch.int64)
    options = {"epsilon": 0.1, "restarts": 0, "queries": 0}
    for targets, broken in ((1, False), (2, True)):
        adv_images = worst_case(model, images, labels, targets=targets, **options)
        assert bool((model(adv_images).argmax(1) != 0).item()) is broken


@pytest.mark.parametrize("targets", [9, 10, 30, 100])
def test_any_number_of_classes_can_be_targets(targets):
    """The nearest class of twelve is the least likely: it is found if all are targets."""
    slopes = torch.cat([torch.zeros(1), torch.ones(10), torch.tensor([-90.0])])
    offsets = torch.cat([torch.tensor([9.0]), 8 - torch.arange(10) / 10, torch.tensor([1.0])])

    def model(images):
        return offsets + slopes * (images.flatten(1)[:, :1] - 0.5)

    images, labels = torch.full((1, 1, 1, 1), 0.5), torch.zeros(1, dtype=torch.int64)
    options = {"epsilon": 0.1, "restarts": 0, "queries": 0}
    adv_images = worst_case(model, images, labels, targets=targets, **options)
    assert (model(adv_images).argmax(1) == 0).item() is (targets < 11)


@pytest.mark.parametrize(("reach", "climbs"), [(0.4, 0), (0.6, 1), (0.7, 2), (0.9, 3)])
def test_further_classes_are_targets_only_of_images_that_came_near(reach, climbs):
    """Within a half, a third and a quarter of the distance to the nearest class."""
    model, images, labels = linear_setting(6)
    epsilon = reach * radii(model, images, labels, "linf")[0].item()
    counted = Counted(model)
    worst_case(counted, images[:1], labels[:1], epsilon=epsilon, restarts=0, queries=0)
    # One pass before all others and one for the order of the classes; the first of 12 steps is
    # known, each other run looks 13 times.
    assert counted.passes.forward == 1 + 12 + 1 + 13 * (1 + climbs)


def test_restart_breaks_what_no_climb_from_the_image_does():
    """The way up from the image ends short; the way that breaks it begins elsewhere."""

    def model(images):
        x = images.flatten(1)[:, :1] - 0.5
        rising = torch.where(x < -0.02, 100 * (x.square() - 0.0036), x - 0.11)
        return torch.cat([torch.zeros_like(x), rising], 1)

    images, labels = torch.full((1, 1, 1, 1), 0.5), torch.zeros(1, dtype=torch.int64)
    for restarts, broken in ((0, False), (10, True)):
        adv_images = worst_case(model, images, labels, epsilon=0.1, restarts=restarts, queries=0)
        assert bool((model(adv_images).argmax(1) != 0).item()) is broken


@pytest.mark.parametrize("restarts", [1, 5, 6])
def test_restarts_side_by_side_end_when_one_breaks_the_image(restarts):
    """The first restart begins on an island of the other class, away from all climbs."""
    corner = 0.5 + 0.1 * (torch.rand(1, generator=torch.Generator().manual_seed(0)) - 0.5).sign()
    direction = -(corner - 0.5).sign()

    def model(images):
        x = images.flatten(1)[:, :1] - 0.5
        rising = direction * x - 0.1001  # just below 0 at the end of the first climb
        island = (x + 0.5 - corner).abs() < 1e-4
        return torch.cat([torch.zeros_like(x), torch.where(island, 1 + x, rising)], 1)

    images, labels = torch.full((1, 1, 1, 1), 0.5), torch.zeros(1, dtype=torch.int64)
    options = {"epsilon": 0.1, "steps": 3, "queries": 0}
    counts = []
    for number in (0, restarts):
        counted = Counted(model)
        adv_images = worst_case(counted, images, labels, restarts=number, **options)
        counts.append(counted.passes.forward)
        assert bool((model(adv_images).argmax(1) != 0).item()) is bool(number)
    assert counts[1] - counts[0] == restarts


class Defence(nn.Module):
    """A network behind something that hides its gradients."""

    def __init__(self, network):
        super().__init__()
        self.network = network
        self.eval()


class Quantized(Defence):
    def forward(self, images):
        return self.network((images * 4).round() / 4)


class Saturated(Defence):
    def forward(self, images):
        return 1000 * self.network(images)


@pytest.mark.slow
@pytest.mark.parametrize("defence", [Quantized, Saturated])
def test_hidden_gradients_leave_no_more_than_under_autoattack(trained, defence):
    """With a tenth of AutoAttack's queries on both sides."""
    pytest.importorskip("pyautoattack")
    network, images, labels = trained("tiny-bn")
    model, images, labels = defence(network), images[:12] / 255, labels[:12]
    seed = torch.Generator().manual_seed(0)
    found = worst_case(model, images, labels, epsilon=3 / 16, queries=500)
    ours, theirs = model(found).argmax(1) == labels, model(images).argmax(1) == labels
    standard = int(theirs.sum())
    for attack, options in (
        (autoattack, {"attacks_to_run": ["apgd-ce"]}),
        (torchattack, {"name": "Square", "norm": "Linf", "n_queries": 500}),
    ):
        found = attack(model, images, labels, epsilon=3 / 16, generator=seed, **options)
        theirs &= model(found).argmax(1) == labels
    assert ours.sum() <= theirs.sum() < standard


@pytest.mark.parametrize("threat_model", ["linf", "l2"])
@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 5, 7), (12,)])
def test_search_without_gradients_finds_what_gradients_do_not_and_stays_in_the_ball(
    threat_model, shape
):
    generator = torch.Generator().manual_seed(3)
    weight = torch.randn(2, torch.Size(shape).numel(), generator=generator)

    def model(images):
        images = images.detach() + 0 * images
        return (images.flatten(1) - 0.5) @ weight.T

    images = 0.45 + 0.1 * torch.rand(20, *shape, generator=generator)
    labels = model(images).argmax(1)
    epsilon = 0.06 if threat_model == "linf" else 0.3
    adv_images = worst_case(
        model, images, labels, epsilon=epsilon, threat_model=threat_model, queries=300
    )
    order = torch.inf if threat_model == "linf" else 2
    assert (adv_images - images).flatten(1).norm(order, dim=1).max() <= epsilon + 1e-6
    assert (model(adv_images).argmax(1) != labels).sum() > 5
    still = worst_case(model, images, labels, epsilon=epsilon, threat_model=threat_model, queries=0)
    assert torch.equal(still, images)


@pytest.mark.parametrize(("threat_model", "order"), [("linf", torch.inf), ("l2", 2)])
@pytest.mark.parametrize("shape", [(3, 7, 5), (1, 1, 9), (2, 9, 1)])
def test_every_query_uses_the_whole_radius(threat_model, order, shape):
    """Images in the middle of the range: nothing is clipped."""
    asked = []

    def model(images):
        asked.append((images - 0.5).flatten(1).norm(order, dim=1))
        return torch.stack([images.flatten(1)[:, 0] * 0 + 1, images.flatten(1).mean(1)], 1)

    images, labels = torch.full((2, *shape), 0.5), torch.zeros(2, dtype=torch.int64)
    found = blind_search(model, images, labels, epsilon=0.2, threat_model=threat_model, queries=200)
    lengths = torch.stack(asked)
    torch.testing.assert_close(lengths, torch.full_like(lengths, 0.2), rtol=1e-5, atol=0)
    # All pixels alike are best, which squares of a few queries only come near to.
    best = 0.2 if threat_model == "linf" else 0.2 / images[0].numel() ** 0.5
    assert (found - 0.5).flatten(1).mean(1).min() > 0.4 * best


def test_honest_network_is_never_searched_without_gradients(trained):
    model, images, labels = trained("tiny-bn")
    asked = [Counted(model) for _ in range(2)]
    for counted, queries in zip(asked, (0, 5000), strict=True):
        # After fewer restarts more images stand, which a search would then be for.
        options = {"epsilon": 3 / 16, "restarts": 2, "queries": queries}
        worst_case(counted, images[:20] / 255, labels[:20], **options)
    assert asked[0].passes == asked[1].passes


def test_worst_case_breaks_more_than_pgd_on_a_trained_network(trained):
    model, images, labels = trained("tiny-auxbn")
    images, labels, network = images[:40] / 255, labels[:40], bind(model, "adv")
    ours = worst_case(network, images, labels, epsilon=3 / 16)
    theirs = pgd(
        network, images, labels, epsilon=3 / 16, step_size=3 / 64, steps=20,
        generator=torch.Generator().manual_seed(0),
    )  # fmt: skip
    standing, under_pgd = (
        (network(adv_images).argmax(1) == labels).sum().item() for adv_images in (ours, theirs)
    )
    assert standing <= under_pgd


def test_worst_case_is_an_attack_of_evaluate(trained, monkeypatch):
    monkeypatch.setattr(chunks, "CHUNK", 10)  # no padding of 10 images to 100
    model, images, labels = trained("tiny-auxbn")
    images, labels = images[:10], labels[:10]
    verdicts = evaluate(
        model, images, labels, epsilon=3 / 16, step_size=3 / 64, steps=(20,), attacks=["worst"]
    )
    robust = {v.attack: v.accuracy for v in verdicts if v.score_branch == v.attack_branch == "adv"}
    assert 0 < robust["worst"] <= robust["pgd-20"]

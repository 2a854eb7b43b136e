"""The worst case on networks with a known solution, and compared with PGD on a trained one."""

import pytest
import torch
from torch import nn

from robustnorm import bind, evaluate
from robustnorm.attacks import pgd, worst_case

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
    worst_case(counted, images, labels, epsilon=limits.quantile(0.7).item())
    assert sizes[0] == N
    assert max(sizes[-21:]) <= N / 2
    assert sum(sizes) < N * 6 * 21 / 2


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
    ("options", "got"), [({"steps": 0}, "0 and 5"), ({"targets": 0}, "20 and 0")]
)
def test_worst_case_needs_a_step_and_a_target(options, got):
    model, images, labels = linear_setting()
    with pytest.raises(ValueError, match=f"must be at least 1, got {got}"):
        worst_case(model, images, labels, epsilon=0.1, **options)


@pytest.mark.parametrize("branch", ["clean", "adv"])
def test_worst_case_breaks_more_than_pgd_on_a_trained_network(trained, branch):
    model, images, labels = trained("auxbn")
    images, labels, network = images[:100] / 255, labels[:100], bind(model, branch)
    ours = worst_case(network, images, labels, epsilon=3 / 16)
    theirs = pgd(
        network, images, labels, epsilon=3 / 16, step_size=3 / 64, steps=20,
        generator=torch.Generator().manual_seed(0),
    )  # fmt: skip
    standing, under_pgd = (
        (network(adv_images).argmax(1) == labels).sum().item() for adv_images in (ours, theirs)
    )
    assert standing <= under_pgd


def test_worst_case_is_an_attack_of_evaluate(trained):
    model, images, labels = trained("auxbn")
    images, labels = images[:30], labels[:30]
    verdicts = evaluate(
        model, images, labels, epsilon=3 / 16, step_size=3 / 64, steps=(20,), attacks=["worst"]
    )
    robust = {v.attack: v.accuracy for v in verdicts if v.score_branch == v.attack_branch == "adv"}
    assert 0 < robust["worst"] <= robust["pgd-20"]

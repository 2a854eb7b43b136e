"""Networks and settings that allow no sound evaluation are refused before any attack."""

import sys

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from robustnorm import evaluate, resnet18
from robustnorm.evaluation import evaluate as module
from robustnorm.evaluation.probe import EvaluationError


class Noisy(nn.Module):
    """Adds noise of a thousandth of the logits' size."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, images):
        logits = self.model(images)
        return logits + 1e-3 * logits.abs().max() * torch.randn_like(logits)


class BatchStatistics(nn.Module):
    """Uses batch statistics in every mode."""

    def forward(self, features):
        return F.batch_norm(features, None, None, training=True)


class Leaky(nn.Module):
    """Mixes a hundredth of the next image of the batch into each."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, images):
        return self.model(0.99 * images + 0.01 * images.roll(1, 0))


def make_model(classes=3, norm="bn"):
    torch.manual_seed(0)
    return resnet18(norm, width=4, num_classes=classes, in_channels=1).eval()


def batch_normalized():
    return nn.Sequential(nn.Conv2d(1, 4, 3), BatchStatistics(), nn.Flatten(), nn.Linear(144, 3))


def run(model, **options):
    images = torch.rand(5, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    return evaluate(model, images, torch.arange(5) % 3, epsilon=0.1, steps=(1,), **options)


@pytest.fixture
def no_attack(monkeypatch):
    def attack_chunk(*_, **__):
        raise AssertionError("the refusal must come before any attack")

    monkeypatch.setattr(module, "attack_chunk", attack_chunk)


@pytest.mark.usefixtures("no_attack")
@pytest.mark.parametrize(
    ("model", "message"),
    [
        (
            lambda: Noisy(make_model()),
            "must give equal images equal logits, but those of branch 'single'",
        ),
        (
            batch_normalized,
            "must not depend on the other images in its batch.*use running statistics",
        ),
        (lambda: Leaky(make_model()), "must not depend on the other images in its batch"),
    ],
)
def test_network_whose_answer_is_not_the_image_s_is_refused(model, message):
    with pytest.raises(EvaluationError, match=message):
        run(model().eval())


@pytest.mark.usefixtures("no_attack")
@pytest.mark.parametrize(
    ("attack", "message"),
    [
        ("autoattack", "attack 'autoattack' needs at least 4 classes, but the network has 3"),
        ("apgd-t", "needs at least 4 classes"),
        ("pgd-2-dlr-targeted", "needs at least 4 classes"),
        ("torchattacks:APDG", "unknown attack 'torchattacks.APDG'; did you mean 'APGD'"),
        ("pdg-2", "did you mean 'pgd-"),
    ],
)
def test_attack_that_cannot_be_run_is_refused(attack, message):
    with pytest.raises(ValueError, match=message):
        run(make_model(), attacks=[attack])


@pytest.mark.usefixtures("no_attack")
@pytest.mark.parametrize(
    ("attack", "packages"),
    [("square", ["pyautoattack", "autoattack"]), ("torchattacks:PGD", ["torchattacks"])],
)
def test_missing_package_is_named(attack, packages, monkeypatch):
    for package in packages:
        monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ImportError, match=r'pip install "robustnorm\[peers\]"'):
        run(make_model(), attacks=[attack])


@pytest.mark.usefixtures("no_attack")
def test_images_are_not_kept_under_rule_any_alone(tmp_path):
    with pytest.raises(EvaluationError, match='images can be kept only with rules="all"'):
        run(make_model(), rules="any", keep=tmp_path)


@pytest.mark.parametrize("norm", ["bn", "modenorm", "auxbn", "saauxbn", "ccbn"])
def test_honest_network_is_not_refused(norm):
    assert run(make_model(norm=norm))


def test_one_image_is_enough():
    assert evaluate(make_model(), torch.rand(1, 1, 8, 8), torch.zeros(1, dtype=torch.int64))


class Breaks(nn.Module):
    """A linear network whose logits are NaN for images brighter than any clean one."""

    def __init__(self, answer):
        super().__init__()
        self.linear, self.answer = nn.Linear(64, 3), answer

    def forward(self, images):
        logits = self.linear(images.flatten(1))
        bright = images.flatten(1).amax(1, keepdim=True) > 0.9
        return torch.where(bright, self.answer, logits)


@pytest.mark.parametrize("rules", ["all", "any"])
@pytest.mark.parametrize("answer", [torch.nan, torch.inf, -torch.inf])
def test_logits_that_are_not_finite_name_the_image(answer, rules):
    """Not a number is class 0 to argmax: such images would count as right."""
    torch.manual_seed(0)
    network = Breaks(answer).eval()
    images = 0.8 * torch.rand(3, 1, 8, 8)
    images[0] /= 4  # no attack makes it bright
    labels = network(images).argmax(1)
    with pytest.raises(ValueError, match=r"logits must be finite.* of id (41|42),"):
        evaluate(
            network,
            images,
            labels,
            epsilon=0.2,
            step_size=0.1,
            steps=(3,),
            rules=rules,
            image_ids=torch.tensor([40, 41, 42]),
        )


def test_clean_logits_that_are_not_finite_are_refused():
    with pytest.raises(ValueError, match=r"logits must be finite, but the network gave nan"):
        evaluate(Breaks(torch.nan).eval(), torch.ones(2, 1, 8, 8), torch.tensor([0, 1]))


@pytest.mark.usefixtures("no_attack")
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"epsilon": 8}, r"epsilon must be from 1e-06 to 1, such as 8/255, got 8"),
        ({"step_size": 2}, r"step_size must be from 1e-06 to 1, such as 8/255, got 2"),
        ({"epsilon": float("nan")}, "epsilon must be from"),
        ({"threat_model": "Linf"}, "did you mean 'linf'"),
    ],
)
def test_radius_and_step_have_the_limits_of_the_settings(options, message):
    images, labels = torch.rand(2, 1, 8, 8), torch.tensor([0, 1])
    with pytest.raises(EvaluationError, match=message):
        evaluate(make_model(), images, labels, **options)


@pytest.mark.usefixtures("no_attack")
def test_grey_images_are_not_broadcast_to_a_network_of_three_channels():
    model = resnet18(width=4, mean=(0.4, 0.5, 0.6), std=(0.2, 0.2, 0.2)).eval()
    with pytest.raises(ValueError, match="images must have the network's 3 channels, got 1"):
        evaluate(model, torch.rand(2, 1, 8, 8), torch.tensor([0, 1]))


class WithoutGradient(nn.Module):
    """Of two channels, the brighter one is the class."""

    def forward(self, images):
        return images.detach().flatten(2).mean(2)


@pytest.mark.parametrize("attacks", [(), ("worst",)])
def test_network_without_a_gradient_needs_an_attack_without(attacks, caplog):
    generator = torch.Generator().manual_seed(0)
    images = 0.3 + 0.4 * torch.rand(20, 2, 3, 3, generator=generator)
    model = WithoutGradient().eval()
    labels = model(images).argmax(1)
    options = {"epsilon": 0.02, "step_size": 0.005, "steps": (3,), "attacks": attacks}
    if not attacks:
        with pytest.raises(ValueError, match=r"must have a gradient.*or use the attack worst"):
            evaluate(model, images, labels, **options)
        return
    verdicts = {v.attack: v for v in evaluate(model, images, labels, **options)}
    gaps = model(images).diff().abs()[:, 0]
    assert torch.equal(torch.from_numpy(verdicts["worst"].correct), gaps > 0.04)
    assert 0 < verdicts["worst"].accuracy < verdicts["pgd-3"].accuracy
    assert {v.searched for v in verdicts.values()} == {"nothing"}
    assert "the logits have no gradient with respect to the images: PGD leaves these" in caplog.text

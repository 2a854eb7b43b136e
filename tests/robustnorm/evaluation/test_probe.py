"""Networks and settings with which no evaluation is sound are refused before any attack."""

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
    """Normalizes by the batch's own statistics, whatever the mode."""

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
    def attack_chunk(*_):
        raise AssertionError("the refusal must come before any attack")

    monkeypatch.setattr(module, "attack_chunk", attack_chunk)


@pytest.mark.usefixtures("no_attack")
@pytest.mark.parametrize(
    ("model", "message"),
    [
        (lambda: Noisy(make_model()), "must answer the same images alike, branch 'single' gave"),
        (batch_normalized, "alike whatever images are in its batch.*use running statistics"),
        (lambda: Leaky(make_model()), "alike whatever images are in its batch"),
    ],
)
def test_network_whose_answer_is_not_the_image_s_is_refused(model, message):
    with pytest.raises(EvaluationError, match=message):
        run(model().eval())


@pytest.mark.usefixtures("no_attack")
@pytest.mark.parametrize(
    ("attack", "message"),
    [
        ("autoattack", "attack 'autoattack' needs at least 4 classes, the network has 3"),
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
    with pytest.raises(EvaluationError, match='images are kept with rules="all" only'):
        run(make_model(), rules="any", keep=tmp_path)


@pytest.mark.parametrize("norm", ["bn", "modenorm", "auxbn", "saauxbn", "ccbn"])
def test_honest_network_is_not_refused(norm):
    assert run(make_model(norm=norm))


def test_one_image_is_enough():
    assert evaluate(make_model(), torch.rand(1, 1, 8, 8), torch.zeros(1, dtype=torch.int64))

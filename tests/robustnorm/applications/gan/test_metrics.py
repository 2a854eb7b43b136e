"""Measures of generated images against closed forms, torchmetrics and torch-fidelity."""

import math

import pytest
import torch
from torch import nn

from robustnorm.applications.gan.metrics import (
    Moments,
    frechet_distance,
    inception_score,
    moments,
    precision_recall,
)

# Two measures of the same features agree to the rounding of float64 sums.
PEERS = 1e-8


def gaussian(mean: list[float], variances: list[float]) -> Moments:
    return Moments(torch.tensor(mean).double(), torch.tensor(variances).double().diag())


def test_frechet_distance_of_two_gaussians_is_the_closed_form():
    first = gaussian([0, 0, 0], [1, 1, 1])
    second = gaussian([1, 0, 0], [4, 0.25, 1])
    # 1 for the means, (2 - 1)^2 and (1/2 - 1)^2 for the deviations.
    assert frechet_distance(first, second) == pytest.approx(2.25, abs=1e-12)
    assert frechet_distance(second, first) == pytest.approx(2.25, abs=1e-12)


def test_frechet_distance_of_samples_approaches_that_of_their_gaussians():
    random = torch.Generator().manual_seed(0)
    first = torch.randn(50_000, 3, generator=random)
    second = torch.randn(50_000, 3, generator=random) * torch.tensor([2, 0.5, 1])
    second[:, 0] += 1
    # Standard error of the mean's part: 2 sqrt(5 / 50,000) = 0.02; four of them.
    assert frechet_distance(moments(first), moments(second)) == pytest.approx(2.25, abs=0.08)


def test_frechet_distance_of_a_set_with_itself_is_zero_and_of_halves_small():
    features = torch.randn(2000, 8, generator=torch.Generator().manual_seed(0))
    assert frechet_distance(moments(features), moments(features)) == pytest.approx(0, abs=1e-10)
    halves = frechet_distance(moments(features[:1000]), moments(features[1000:]))
    # Means alone give 8 dimensions of variance 2 / 1000.
    assert 0 < halves < 0.1


def test_frechet_distance_does_not_change_when_all_features_are_rotated():
    random = torch.Generator().manual_seed(0)
    first, second = torch.randn(2, 300, 5, generator=random).double()
    second = second * torch.arange(1, 6)
    rotation = torch.linalg.qr(torch.randn(5, 5, generator=random).double()).Q
    rotated = frechet_distance(moments(first @ rotation), moments(second @ rotation))
    assert rotated == pytest.approx(frechet_distance(moments(first), moments(second)), rel=1e-12)


def test_frechet_distance_under_a_shift_is_its_square():
    features = torch.randn(500, 4, generator=torch.Generator().manual_seed(0)).double()
    shift = torch.tensor([1.0, -2, 0, 3])
    distance = frechet_distance(moments(features), moments(features + shift))
    assert distance == pytest.approx(14, rel=1e-9)


def test_frechet_distance_of_fewer_images_than_features_is_finite_and_not_negative():
    few = torch.randn(5, 20, generator=torch.Generator().manual_seed(0))
    other = torch.randn(6, 20, generator=torch.Generator().manual_seed(1))
    distance = frechet_distance(moments(few), moments(other))
    assert math.isfinite(distance)
    assert distance > 0
    # A root of an eigenvalue of 1e-16, which should be 0, is 1e-8.
    assert frechet_distance(moments(few), moments(few)) == pytest.approx(0, abs=1e-6)


def test_inception_score_has_its_known_values():
    assert inception_score(torch.zeros(100, 10)) == pytest.approx(1)  # constant predictions
    balanced = 1000 * torch.eye(10).repeat(10, 1)
    assert inception_score(balanced) == pytest.approx(10)  # sure, and every class as often
    one_class = 1000 * torch.eye(10)[torch.full((100,), 3)]
    assert inception_score(one_class) == pytest.approx(1)
    random = torch.randn(100, 10, generator=torch.Generator().manual_seed(0))
    assert 1 < inception_score(random) < 10


def test_inception_score_of_images_in_the_order_of_their_classes_is_that_of_one_class():
    in_order = 1000 * torch.eye(10).repeat_interleave(10, 0)
    assert inception_score(in_order, splits=10) == pytest.approx(1)
    assert inception_score(in_order, splits=1) == pytest.approx(10)


def test_precision_and_recall_of_known_sets():
    random = torch.Generator().manual_seed(0)
    features = torch.randn(200, 4, generator=random)
    assert precision_recall(features, features) == (1.0, 1.0)
    assert precision_recall(features, features + 100) == (0.0, 0.0)
    real = torch.cat([features, features + 100])
    precision, recall = precision_recall(real, features)  # one of two modes is missed
    assert precision == 1.0
    assert recall == 0.5


class AsFeatures(nn.Module):
    """A linear function of uint8 images as a feature network."""

    num_features = 6

    def __init__(self, weights):
        super().__init__()
        self.weights = nn.Parameter(weights, requires_grad=False)

    def forward(self, images):
        return images.flatten(1).to(self.weights.dtype) / 255 @ self.weights


@pytest.fixture
def image_sets():
    random = torch.Generator().manual_seed(0)
    real = torch.randint(0, 256, (400, 3, 4, 4), generator=random, dtype=torch.uint8)
    fake = torch.randint(60, 256, (300, 3, 4, 4), generator=random, dtype=torch.uint8)
    return real, fake


@pytest.fixture
def seen():
    random = torch.Generator().manual_seed(1)
    return AsFeatures(torch.randn(48, 6, generator=random).double())


@pytest.mark.filterwarnings("ignore")  # of the packages themselves, as they are imported
def test_measures_equal_those_of_torchmetrics(image_sets, seen, torchvision_library):
    from torchmetrics.image.fid import FrechetInceptionDistance
    from torchmetrics.image.inception import InceptionScore

    real, fake = image_sets
    distance = FrechetInceptionDistance(feature=seen).set_dtype(torch.float64)
    distance.update(real, real=True)
    distance.update(fake, real=False)
    own = frechet_distance(moments(seen(real)), moments(seen(fake)))
    assert own == pytest.approx(distance.compute().item(), abs=PEERS)
    # One split: it shuffles the images before it divides them.
    score = InceptionScore(feature=seen, splits=1).set_dtype(torch.float64)
    score.update(fake)
    assert inception_score(seen(fake), splits=1) == pytest.approx(
        score.compute()[0].item(), abs=PEERS
    )


@pytest.mark.filterwarnings("ignore")  # of the packages themselves, as they are imported
def test_measures_equal_those_of_torch_fidelity(image_sets, seen, torchvision_library):
    from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric
    from torch_fidelity.metric_isc import isc_features_to_metric
    from torch_fidelity.metric_prc import prc_features_to_metric

    real, fake = (seen(images) for images in image_sets)
    theirs = fid_statistics_to_metric(
        fid_features_to_statistics(real), fid_features_to_statistics(fake), verbose=False
    )
    own = frechet_distance(moments(real), moments(fake))
    assert own == pytest.approx(theirs["frechet_inception_distance"], abs=PEERS)
    theirs = isc_features_to_metric(fake, splits=10, shuffle=False)
    assert inception_score(fake) == pytest.approx(theirs["inception_score_mean"], abs=PEERS)
    theirs = prc_features_to_metric(fake, real, prc_neighborhood=3, verbose=False)
    expected = (theirs["precision"], theirs["recall"])  # means of float32
    assert precision_recall(real, fake) == pytest.approx(expected, abs=1e-6)


def test_inception_score_has_ten_splits_of_any_number_of_images():
    logits = torch.randn(15, 4, generator=torch.Generator().manual_seed(0))
    sizes = [2] * 5 + [1] * 5  # a single image has the score 1
    scores = [inception_score(part, splits=1) for part in logits.split(sizes)]
    assert inception_score(logits) == pytest.approx(sum(scores) / 10, rel=1e-12)
    with pytest.raises(ValueError, match="10 splits need as many images, got 9"):
        inception_score(logits[:9])

"""The balls of the threat models: random starts, projection, membership."""

import math

import pytest
import torch
from pgd_cases import make_inputs, seeded

from robustnorm.attacks.threat_model import THREAT_MODELS, widest


def test_linf_random_start_is_uniform_in_the_cube():
    images = torch.full((50, 3, 8, 8), 0.5)
    noise = THREAT_MODELS["linf"].random_start(images, 0.1, seeded()) - images
    # 9,600 draws: moments within 5 standard errors of those of U(-0.1, 0.1).
    assert abs(noise.mean().item()) < 5 * 0.1 / math.sqrt(3 * 9600)
    assert abs(noise.square().mean().item() - 0.01 / 3) < 5 * 0.01 * math.sqrt(4 / 45 / 9600)
    assert 0.0999 < noise.abs().max() <= 0.1 + 1e-6


def test_l2_random_start_is_uniform_in_the_ball():
    images = torch.full((4000, 1, 1, 2), 0.5, dtype=torch.float64)
    start = THREAT_MODELS["l2"].random_start(images, 0.1, seeded())
    radius = (start - images).flatten(1).norm(dim=1) / 0.1
    assert radius.max() <= 1
    # In two dimensions the squared radius is uniform: mean 1/2, within 5 standard errors.
    assert abs(radius.square().mean().item() - 0.5) < 5 / math.sqrt(12 * 4000)


def test_random_start_on_the_generator_s_device_stays_in_range():
    images = torch.tensor([0.0, 1.0]).view(2, 1, 1, 1).expand(2, 3, 4, 4)
    for ball in THREAT_MODELS.values():
        start = ball.random_start(images, 0.3, seeded())
        assert start.min() >= 0
        assert start.max() <= 1


@pytest.mark.parametrize("name", THREAT_MODELS)
def test_projection_lands_in_the_ball_and_keeps_what_is_inside(name):
    ball, (images, _) = THREAT_MODELS[name], make_inputs()
    far = images + torch.randn(images.shape, generator=seeded(), dtype=torch.float64)
    projected = ball.project(far, images, 0.1)
    assert ball.contains(projected, images, 0.1, tolerance=1e-12).all()
    torch.testing.assert_close(ball.project(projected, images, 0.1), projected, rtol=0, atol=1e-15)


@pytest.mark.parametrize("name", THREAT_MODELS)
def test_contains_tells_images_apart(name):
    images = torch.full((3, 1, 2, 2), 0.5)
    adv_images = images.clone()
    adv_images[1, 0, 0, 0] = 0.7  # farther than 0.1
    adv_images[2] = 1.01  # outside [0, 1]
    assert THREAT_MODELS[name].contains(adv_images, images, 0.1).tolist() == [True, False, False]


def test_sums_over_pixels_are_in_float64_where_there_is_such_a_type():
    assert widest(torch.device("cpu")) == widest(torch.device("cuda")) == torch.float64
    assert widest(torch.device("mps")) == torch.float32


def test_zero_gradient_moves_nothing():
    for ball in THREAT_MODELS.values():
        step = ball.ascend(torch.zeros(2, 3, 4, 4), 0.1)
        assert not step.any()


@pytest.mark.parametrize("scale", [1e-36, 1e-30, 1e-24, 1e-8, 1, 1e8, 1e20])
def test_l2_step_has_its_size_whatever_the_scale_of_the_gradient(scale):
    """Squares of values below 1e-23 are 0 in float32, those of values above 1e19 infinite."""
    gradient = torch.randn(2, 3, 8, 8, generator=seeded(), dtype=torch.float64)
    step = THREAT_MODELS["l2"].ascend((scale * gradient).float(), 0.1)
    assert step.dtype == torch.float32
    expected = 0.1 * gradient / gradient.square().sum((1, 2, 3), keepdim=True).sqrt()
    torch.testing.assert_close(step.double(), expected, rtol=1e-6, atol=0)  # float32


@pytest.mark.parametrize("epsilon", [0.5, 3.0, 30.0])
def test_l2_ball_of_a_large_image_contains_what_is_projected_and_drawn(epsilon):
    ball = THREAT_MODELS["l2"]
    images = 0.4 + 0.2 * torch.rand(8, 3, 224, 224, generator=seeded())
    far = images + ball.ascend(torch.randn(images.shape, generator=seeded(1)), 3 * epsilon)
    projected = ball.project(far, images, epsilon)
    change = projected.double() - images
    farthest = change.square().sum((1, 2, 3)).sqrt().max()
    assert farthest <= epsilon * (1 + 1e-6)  # a float32 sum alone is off by more
    assert ball.contains(projected, images, epsilon).all()
    assert ball.contains(ball.random_start(images, epsilon, seeded()), images, epsilon).all()
    assert not ball.contains(images + change.float() * (1 + 1e-4), images, epsilon).any()

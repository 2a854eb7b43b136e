"""Evidence from single forwards of a branch."""

import torch
from torch import nn

from robustnorm.evaluation.checks.forwards import input_scale

SCALES = torch.tensor([10.0, 0.1, 0.1]).view(1, 3, 1, 1)


def images_on_the_scale_of_training():
    return SCALES * torch.randn(50, 3, 8, 8, generator=torch.Generator().manual_seed(0))


class BroadcastNorm(nn.Module):
    """A batch norm of other code, whose statistics have the shape of its input."""

    def __init__(self):
        super().__init__()
        self.register_buffer("running_mean", torch.zeros(1, 3, 1, 1))
        self.register_buffer("running_var", SCALES.square())

    def forward(self, input):
        return (input - self.running_mean) / self.running_var.sqrt()


def test_input_scale_is_that_of_each_channel_whatever_the_shape_of_the_statistics():
    plain = nn.BatchNorm2d(3).eval()
    plain.running_var.copy_(SCALES.square().flatten())
    images = images_on_the_scale_of_training()
    for layer in (plain, BroadcastNorm()):
        # 3,200 values per channel: their mean square is within 5 standard errors of 1.
        assert input_scale(nn.Sequential(layer), images) < 1 + 5 * (2 / 3200) ** 0.5
        torch.testing.assert_close(
            input_scale(nn.Sequential(layer), 10 * images),
            100 * images_mean_square(images),
            rtol=1e-5,
            atol=0,
        )


def images_mean_square(images):
    """Returns the median over the channels of the mean square, in units of training's."""
    return (images / SCALES).double().square().mean((0, 2, 3)).median().item()


class Scaled(nn.Module):
    """Calls a module with a number."""

    def __init__(self):
        super().__init__()
        self.factor, self.norm = Double(), nn.BatchNorm2d(3)

    def forward(self, images):
        return self.norm(self.factor(1) * images)


class Double(nn.Module):
    def forward(self, number):
        return 2 * number


def test_input_scale_takes_modules_of_any_input():
    images = torch.randn(50, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    expected = (2 * images).double().square().mean((0, 2, 3)).median().item()
    found = input_scale(Scaled().eval(), images)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=0)

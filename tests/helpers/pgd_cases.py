"""A network and images for the tests of PGD, in float64."""

import torch
from torch import nn


def make_conv_model():
    torch.manual_seed(0)
    return (
        nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1),
            nn.BatchNorm2d(8),
            nn.ReLU(),
            nn.AvgPool2d(2),
            nn.Flatten(),
            nn.Linear(32, 5),
        )
        .double()
        .eval()
    )


def make_inputs(n=8, size=4, classes=5, margin=0.0):
    generator = torch.Generator().manual_seed(1)
    images = torch.rand(n, 3, size, size, generator=generator, dtype=torch.float64)
    labels = torch.randint(classes, (n,), generator=generator)
    return images * (1 - 2 * margin) + margin, labels


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)

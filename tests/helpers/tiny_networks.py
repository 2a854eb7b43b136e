"""Factories as other code writes them: with and without norm, and wrong ones."""

import torch
from torch import nn

net = nn.Sequential(nn.Conv2d(2, 3, 1))


def _network(channels, classes, width, norm):
    return nn.Sequential(
        nn.Conv2d(channels, width, 3, padding=1),
        norm(width),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(width, classes),
    )


def plain(num_classes=10, in_channels=3, width=8):
    """Knows nothing of norms."""
    return _network(in_channels, num_classes, width, nn.BatchNorm2d)


def normed(num_classes=10, in_channels=3, norm=nn.BatchNorm2d):
    """Takes the class of its norm, as torch's own is called."""
    return _network(in_channels, num_classes, 8, lambda c: norm(c, eps=1e-3, momentum=0.2))


def named(num_classes: int, in_channels: int, norm: str, branches, mean, std):
    """Takes the name of its norm and normalizes its input."""
    from robustnorm.models.resnet import InputNormalization
    from robustnorm.norms import NORMS

    body = _network(in_channels, num_classes, 8, lambda c: NORMS[norm](c, branches))
    return nn.Sequential(InputNormalization(mean, std), *body)


class Centred(nn.Module):
    def __init__(self, channels, classes):
        super().__init__()
        self.register_buffer("mu", torch.full((1, channels, 1, 1), 0.5))
        self.register_buffer("sigma", torch.full((1, channels, 1, 1), 0.5))
        self.body = _network(channels, classes, 4, nn.BatchNorm2d)

    def forward(self, images):
        return self.body((images - self.mu) / self.sigma)


def centred(num_classes, in_channels):
    """Holds the mean of its input."""
    return Centred(in_channels, num_classes)


def needs_depth(depth, num_classes):
    return plain(num_classes)


def fails(num_classes):
    raise RuntimeError("no such\nluck")


def layers(num_classes):
    return [nn.Linear(3, num_classes)]


def ignores(norm, num_classes, in_channels):
    return plain(num_classes, in_channels)


def bare(num_classes, in_channels):
    return nn.Sequential(nn.Flatten(), nn.Linear(36 * in_channels, num_classes))


class Pair(nn.Module):
    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, images):
        return self.network(images), images


def a_tuple(num_classes, in_channels):
    return Pair(plain(num_classes, in_channels))


def on_meta(num_classes, in_channels):
    with torch.device("meta"):
        return plain(num_classes, in_channels)

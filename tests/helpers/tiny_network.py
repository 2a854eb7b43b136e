"""Two convolutions in place of a ResNet, for tests whose subject is not the network.

They have what a run, an attack and a page ask for: norms with branches, a last linear layer, and
images of any size, at a tenth of the time.
"""

from torch import nn

from robustnorm.models.resnet import input_normalization, norm_factory

CHANNELS = 4, 8


def tiny(
    norm="bn", num_classes=10, in_channels=3, mean=None, std=None, branches=("clean", "adv")
):  # fmt: skip
    make_norm, layers = norm_factory(norm, branches), [input_normalization(in_channels, mean, std)]
    for channels in CHANNELS:
        layers += [nn.Conv2d(in_channels, channels, 3, 2, 1, bias=False), make_norm(channels)]
        layers += [nn.SiLU()]  # has a gradient everywhere
        in_channels = channels
    layers += [nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(4 * in_channels, num_classes)]
    return nn.Sequential(*layers)

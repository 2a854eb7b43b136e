"""Shared by the tests of the evaluation: a random network, too little memory, a kill."""

import pytest
import torch
from tiny_network import tiny
from torch.nn import functional as F

from robustnorm import bind
from robustnorm.evaluation import evaluate as evaluation
from robustnorm.evaluation.attack import attack_chunk

OUT_OF_MEMORY = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")


@pytest.fixture(scope="session")
def make_network():
    """Returns what makes a random network whose branches differ, in evaluation mode."""

    def make(num_classes=3):
        torch.manual_seed(0)
        network = tiny("auxbn", num_classes=num_classes, in_channels=1)
        for layer in network.modules():
            if hasattr(layer, "branches"):
                layer.running_mean.normal_(std=0.3)
                layer.running_var.uniform_(0.5, 1.5)
        network.eval()
        images = torch.rand(100, 1, 8, 8, generator=torch.Generator().manual_seed(1))
        with torch.no_grad():  # every class is predicted, near to others
            network[-1].bias -= bind(network, "adv")(images).mean(0)
        return network

    return make


@pytest.fixture
def shrink(monkeypatch):
    """Limits memory to convolutions of that many images."""

    def apply(most, error=OUT_OF_MEMORY):
        convolve = F.conv2d

        def conv2d(images, *arguments, **options):
            if len(images) > most:
                raise error
            return convolve(images, *arguments, **options)

        monkeypatch.setattr(F, "conv2d", conv2d)

    return apply


@pytest.fixture
def kill(monkeypatch):
    """Lets the second attack from here on be killed; returns of how many images each one is."""

    def apply():
        attacked = []

        def watched(branches, images, *arguments, **passes):
            attacked.append(len(images))
            if len(attacked) == 2:
                raise KeyboardInterrupt
            return attack_chunk(branches, images, *arguments, **passes)

        monkeypatch.setattr(evaluation, "attack_chunk", watched)
        return attacked

    return apply

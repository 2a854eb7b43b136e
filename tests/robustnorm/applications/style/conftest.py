import pytest
import torch
from torch import nn

from robustnorm.applications.style.encoder import Encoder
from robustnorm.applications.style.network import StyleNetwork


@pytest.fixture
def encoder():
    """A small encoder of two stages with random weights, whose mean activations are 1."""
    torch.manual_seed(0)
    made = Encoder((8, 16), (2, 1))
    for layer in made.layers:
        if isinstance(layer, nn.Conv2d):
            nn.init.normal_(layer.bias, 0.2, 0.1)
    made.normalize([torch.rand(4, 3, 12, 12)])
    return made


@pytest.fixture
def make_network(encoder):
    def make(norm="saadain", seed=0):
        return StyleNetwork(encoder, norm, seed)

    return make

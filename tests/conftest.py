"""What tests share: one thread, torchvision, small networks that have learned something."""

import sys
from collections.abc import Callable
from fractions import Fraction
from functools import cache

import pytest
import torch
from torch import Tensor, nn

from robustnorm.config import Config
from robustnorm.data.dataset import split_validation
from robustnorm.data.digits import load_digits
from robustnorm.runs import augmentation, build_model, describe_dataset
from robustnorm.training.advprop import train

# The tests' networks are small: a second thread costs more than it gives.
torch.set_num_threads(1)

# Radius and step on the digits: those of configs/digits.yaml.
EPSILON, STEP_SIZE = 3 / 16, 3 / 64


@cache
def _trained(norm: str) -> tuple[nn.Module, Tensor, Tensor]:
    config = Config(
        norm=norm, width=8, epochs=4, batch_size=32, train_steps=3, validation_steps=1,
        validation=100, learning_rate=0.1, epsilon=Fraction(3, 16), step_size=Fraction(3, 64),
    )  # fmt: skip
    dataset = load_digits()
    training, validation = split_validation(dataset.train, config.validation, None)
    model = build_model(config, describe_dataset(dataset, len(training)))
    optimizer = torch.optim.SGD(
        model.parameters(), lr=0.1, momentum=config.momentum, weight_decay=config.weight_decay
    )
    settings = {"config": config, "augmentation": augmentation(config, dataset)}
    for _ in train(model, training, validation, optimizer=optimizer, **settings):
        pass
    return model.eval(), dataset.test.images, dataset.test.labels


@pytest.fixture(scope="session")
def trained() -> Callable[[str], tuple[nn.Module, Tensor, Tensor]]:
    """Returns what trains a norm on digits, once a session: model, uint8 images and labels.

    Trained with AdvProp against PGD-3 at radius 3/16; the 500 test images are those of the demo.
    Tests must leave the model as it is.
    """
    return _trained


@pytest.fixture(scope="session")
def torchvision_library():
    """PyPI's torchvision needs two operators that a torch for the CPU does not have."""
    if "torchvision" in sys.modules or torch.version.cuda:
        return None
    library = torch.library.Library("torchvision", "DEF")
    library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    return library

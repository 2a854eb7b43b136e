"""Small networks trained on digits with AdvProp, kept in the repository.

Trained in a test they would differ from one processor to the next, and with them every verdict
near a threshold.

    PYTHONPATH=. python tests/helpers/trained_networks.py

trains them anew, or those named after it, which is right only when training is meant to change.
"""

import sys
from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_network import tiny
from torch import nn

from robustnorm.data.dataset import split_validation
from robustnorm.data.digits import load_digits
from robustnorm.models import NETWORKS
from robustnorm.runs.described import build_model, describe_dataset
from robustnorm.settings.config import Config
from robustnorm.training.advprop import train

FOLDER = Path(__file__).with_name("trained_networks")
# Norms of a ResNet, and of two convolutions, whose attacks take a fifth of the time.
NAMES = ("bn", "modenorm", "auxbn", "saauxbn", "tiny-bn", "tiny-auxbn")
CONFIG = Config(
    width=8, epochs=4, batch_size=32, train_steps=3, validation_steps=1,
    validation=100, learning_rate=0.1, epsilon=Fraction(3, 16), step_size=Fraction(3, 64),
)  # fmt: skip


def _config(name: str) -> Config:
    network, _, norm = name.rpartition("-")
    return replace(CONFIG, norm=norm, **({"network": network, "epochs": 12} if network else {}))


def _build(name: str) -> nn.Module:
    dataset = load_digits()
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(NETWORKS, "tiny", tiny)
        return build_model(_config(name), describe_dataset(dataset, len(dataset.train)))


def load_network(name: str) -> nn.Module:
    """Returns a network in evaluation mode."""
    model = _build(name)
    model.load_state_dict(load_file(FOLDER / f"{name}.safetensors"))  # half precision, cast
    return model.eval()


def make(names: Sequence[str]) -> None:
    """Trains networks and keeps their weights in half precision."""
    torch.set_num_threads(1)
    dataset = load_digits()
    training, validation = split_validation(dataset.train, CONFIG.validation, None)
    FOLDER.mkdir(exist_ok=True)
    for name in names:
        torch.manual_seed(0)
        config, model = _config(name), _build(name)
        optimizer = torch.optim.SGD(
            model.parameters(),
            lr=0.1,
            momentum=config.momentum,
            weight_decay=config.weight_decay,
        )
        settings = {"config": config, "augmentation": dataset.augmentation.changed(None, None)}
        for _ in train(model, training, validation, optimizer=optimizer, **settings):
            pass
        state = {
            key: value.half() if value.is_floating_point() else value
            for key, value in model.state_dict().items()
        }
        save_file(state, FOLDER / f"{name}.safetensors")


if __name__ == "__main__":
    make(sys.argv[1:] or NAMES)

"""Small networks trained on digits with AdvProp, kept in the repository.

Trained in a test they would differ from one processor to the next, and with them every verdict
near a threshold.

    PYTHONPATH=. python tests/helpers/trained_networks.py

trains them anew, which is right only when training is meant to change.
"""

from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from robustnorm.data.dataset import split_validation
from robustnorm.data.digits import load_digits
from robustnorm.runs.described import build_model, describe_dataset
from robustnorm.settings.config import Config
from robustnorm.training.advprop import train

FOLDER = Path(__file__).with_name("trained_networks")
NORMS = ("bn", "modenorm", "auxbn", "saauxbn")
CONFIG = Config(
    width=8, epochs=4, batch_size=32, train_steps=3, validation_steps=1,
    validation=100, learning_rate=0.1, epsilon=Fraction(3, 16), step_size=Fraction(3, 64),
)  # fmt: skip


def _build(norm: str) -> nn.Module:
    dataset = load_digits()
    return build_model(
        replace(CONFIG, norm=norm),
        describe_dataset(dataset, len(dataset.train)),
    )


def load_network(norm: str) -> nn.Module:
    """Returns the network of a norm in evaluation mode."""
    model = _build(norm)
    model.load_state_dict(load_file(FOLDER / f"{norm}.safetensors"))  # half precision, cast
    return model.eval()


def make() -> None:
    """Trains each norm and keeps its weights in half precision."""
    torch.set_num_threads(1)
    dataset = load_digits()
    training, validation = split_validation(dataset.train, CONFIG.validation, None)
    FOLDER.mkdir(exist_ok=True)
    for norm in NORMS:
        model = _build(norm)
        optimizer = torch.optim.SGD(
            model.parameters(),
            lr=0.1,
            momentum=CONFIG.momentum,
            weight_decay=CONFIG.weight_decay,
        )
        settings = {"config": CONFIG, "augmentation": dataset.augmentation.changed(None, None)}
        for _ in train(model, training, validation, optimizer=optimizer, **settings):
            pass
        state = {
            name: value.half() if value.is_floating_point() else value
            for name, value in model.state_dict().items()
        }
        save_file(state, FOLDER / f"{norm}.safetensors")


if __name__ == "__main__":
    make()

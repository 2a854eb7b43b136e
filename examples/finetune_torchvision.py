"""Converts a torchvision ResNet-18 to a routed norm and fine-tunes it with AdvProp.

python examples/finetune_torchvision.py --data cifar10 --norm saauxbn --epochs 5
python examples/finetune_torchvision.py --small  # digits, untrained weights, seconds
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn

from robustnorm import convert, evaluate
from robustnorm.data import load_dataset
from robustnorm.data.dataset import Split, split_validation, subset
from robustnorm.models.resnet import InputNormalization
from robustnorm.settings.config import Config
from robustnorm.training.advprop import train

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def rgb(split: Split) -> Split:
    """Returns the images with three channels, grey ones repeated."""
    return Split(split.images.expand(-1, 3, -1, -1).contiguous(), split.labels)


def main(arguments: Sequence[str] | None = None) -> nn.Module:
    """Fine-tunes, prints the accuracies of both branches and returns the network."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", default="cifar10")
    parser.add_argument("--data_root", type=Path, default=Path("data"))
    parser.add_argument("--norm", default="saauxbn")
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--small", action="store_true")
    options = parser.parse_args(arguments)

    from torchvision.models import resnet18

    dataset = load_dataset("digits" if options.small else options.data, root=options.data_root)
    # Images stay in [0, 1] outside the network, so that epsilon is on that scale.
    network = resnet18(weights=None if options.small else "DEFAULT")
    network.fc = nn.Linear(network.fc.in_features, len(dataset.classes))
    model = nn.Sequential(InputNormalization(*IMAGENET), network)
    # Both branches now compute what the network computed; training makes them differ.
    convert(model, options.norm)

    config = Config(
        norm=options.norm,
        epochs=1 if options.small else options.epochs,
        batch_size=16 if options.small else 128,
        train_limit=32 if options.small else None,
        validation=16 if options.small else 500,
        train_steps=1 if options.small else 7,
        validation_steps=1 if options.small else 10,
        learning_rate=0.01,
        channels_last=False,
    )
    training, validation = split_validation(
        rgb(dataset.train), config.validation, config.train_limit
    )
    optimizer = torch.optim.SGD(model.parameters(), lr=config.learning_rate, momentum=0.9)
    for record in train(
        model,
        training,
        validation,
        config=config,
        augmentation=dataset.augmentation,
        optimizer=optimizer,
    ):
        print(f"epoch {record.epoch}:", record.validation)

    _, test = subset(rgb(dataset.test), 16 if options.small else 1000)
    for verdict in evaluate(
        model, test.images, test.labels, steps=(2,) if options.small else (10,)
    ):
        print(verdict.attack, verdict.rule, verdict.score_branch, f"{100 * verdict.accuracy:.1f} %")
    return model


if __name__ == "__main__":
    main()

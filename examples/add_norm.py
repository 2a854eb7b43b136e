"""Adding a norm in one file: group normalization with an affine per branch.

    python examples/add_norm.py            # trains it on digits, about a minute
    python examples/add_norm.py --small    # seconds

A routed norm derives from ``RoutedLayer``, which knows the active branch. One line registers its
name for networks and ``robustnorm train --norm``. To add it to the package, put the class into
``robustnorm/norms/`` and the line into ``NORMS``.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from robustnorm import evaluate, resnet18
from robustnorm.data import load_dataset
from robustnorm.data.dataset import split_validation, subset
from robustnorm.norms import NORMS
from robustnorm.norms.routing import RoutedLayer, RoutingError
from robustnorm.settings.config import Config
from robustnorm.training.advprop import train


class BranchGroupNorm(RoutedLayer):
    """Normalizes groups of channels of each image, then applies the active branch's affine.

    Without batch statistics, training and evaluation are the same.

    Args:
        num_features: C.
        branches: Names; row i of weight and bias belongs to ``branches[i]``.
        num_groups: Number of groups, a divisor of C.

    Shape:
        (N, C, H, W) to the same.
    """

    def __init__(
        self, num_features: int, branches: Sequence[str] = ("clean", "adv"), num_groups: int = 2
    ) -> None:
        super().__init__(branches)
        self.num_groups = num_groups
        self.weight = nn.Parameter(torch.ones(len(self.branches), num_features))
        self.bias = nn.Parameter(torch.zeros(len(self.branches), num_features))

    def forward(self, input: Tensor) -> Tensor:
        row = self.selection(len(input))
        if not isinstance(row, int):
            raise RoutingError("BranchGroupNorm takes one branch for the whole batch")
        return F.group_norm(input, self.num_groups, self.weight[row], self.bias[row])


NORMS["branchgn"] = BranchGroupNorm


def main(arguments: Sequence[str] | None = None) -> nn.Module:
    """Trains a network with the norm, prints the accuracies and returns it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--small", action="store_true")
    small = parser.parse_args(arguments).small
    dataset = load_dataset("digits")
    config = Config(
        norm="branchgn",
        width=4 if small else 16,
        epochs=1 if small else 10,
        batch_size=32,
        validation=32,
        train_limit=64 if small else None,
        train_steps=1 if small else 5,
        validation_steps=1,
    )
    model = resnet18(config.norm, width=config.width, in_channels=1)
    training, validation = split_validation(dataset.train, config.validation, config.train_limit)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    for record in train(
        model,
        training,
        validation,
        config=config,
        augmentation=dataset.augmentation,
        optimizer=optimizer,
    ):
        print(f"epoch {record.epoch}:", record.validation)
    _, test = subset(dataset.test, 32 if small else None)
    for verdict in evaluate(model, test.images, test.labels, steps=(2,) if small else (10,)):
        print(verdict.attack, verdict.rule, verdict.score_branch, f"{100 * verdict.accuracy:.1f} %")
    return model


if __name__ == "__main__":
    main()

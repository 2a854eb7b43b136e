"""Replacing layers of a network, and the layers that stand for a batch norm."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import TypeGuard, TypeVar

from torch import Tensor, nn

from robustnorm.models.fusion import BatchNorm
from robustnorm.norms.routed import (
    RoutedBatchNorm,
    RoutedBatchNorm1d,
    RoutedBatchNorm2d,
    RoutedBatchNorm3d,
)

ROUTED: dict[type[BatchNorm], type[RoutedBatchNorm]] = {
    nn.BatchNorm1d: RoutedBatchNorm1d,
    nn.BatchNorm2d: RoutedBatchNorm2d,
    nn.BatchNorm3d: RoutedBatchNorm3d,
}

Layer = TypeVar("Layer", bound=nn.Module)


def replace_layers(
    model: nn.Module,
    matches: Callable[[nn.Module], TypeGuard[Layer]],
    replacement: Callable[[Layer], nn.Module],
) -> nn.Module:
    """Replaces each matching layer once, however many modules share it."""
    if matches(model):
        return replacement(model)
    replaced: dict[nn.Module, nn.Module] = {}
    for parent in list(model.modules()):
        # Not named_children(), which skips a layer's second name.
        for name, child in parent._modules.items():
            if child is not None and matches(child):
                if child not in replaced:
                    replaced[child] = replacement(child)
                parent._modules[name] = replaced[child]
    return model


def is_batch_norm_act(module: nn.Module) -> bool:
    """Returns whether ``module`` is timm's batch norm followed by dropout and activation."""
    kind = type(module)
    return kind.__module__.startswith("timm.") and kind.__name__ == "BatchNormAct2d"


class NormAct(nn.Sequential):
    """A norm, then the dropout and activation of timm's BatchNormAct2d that it replaces."""

    def __init__(self, norm: nn.Module, layer: nn.Module) -> None:
        super().__init__(OrderedDict(bn=norm, **dict(layer.named_children())))
        self.training = layer.training


class FoldedBatchNormAct2d(NormAct):
    """timm's layer of that name, folded."""


class RoutedBatchNormAct2d(RoutedBatchNorm2d):
    """The replacement of timm's BatchNormAct2d: dropout and activation follow the norm."""

    drop: nn.Module
    act: nn.Module

    def forward(self, input: Tensor) -> Tensor:
        output: Tensor = self.act(self.drop(super().forward(input)))
        return output

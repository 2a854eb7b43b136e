from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from robustnorm.norms.routed import RoutedBatchNorm
from robustnorm.norms.routing import route, routed_layers


@contextmanager
def freeze(model: nn.Module, branch: str, optimizer: Optimizer) -> Iterator[None]:
    """Keeps one branch's affine unchanged in every step of ``optimizer`` inside the block.

    The affines of all branches are rows of one parameter. A branch without images in a step gets a
    gradient of 0 there, where a separate batch norm would get none, so weight decay and momentum
    would still move it. This block restores its rows, and the optimizer's state for them
    (momentum), exactly. The branch's running statistics change only when images are routed through
    it. Everything the branches share still trains: convolutions, the shared affine of a sandwich.

    Args:
        model: Any module tree.
        branch: A branch that every routed layer of ``model`` has.
        optimizer: The optimizer that trains ``model``.

    Raises:
        RoutingError: When a routed layer lacks the branch.

    Examples:
        >>> from robustnorm.norms import AuxBN
        >>> layer = AuxBN(1)
        >>> optimizer = torch.optim.SGD(layer.parameters(), lr=1.0, weight_decay=0.5)
        >>> with freeze(layer, "clean", optimizer), route(layer, "adv"):
        ...     layer(torch.rand(2, 1, 3, 3)).sum().backward()
        ...     optimizer.step()
        >>> layer.weight[0].item(), round(layer.weight[1].item(), 2)
        (1.0, 0.5)
    """
    with route(model, branch):  # checks the name on every layer
        rows = {
            parameter: layer.branches.index(branch)
            for layer in routed_layers(model)
            if isinstance(layer, RoutedBatchNorm) and layer.affine != "shared"
            for parameter in (layer.weight, layer.bias)
        }
    kept: dict[Tensor, Tensor] = {}

    @torch.no_grad()
    def keep(*_: object) -> None:
        kept.clear()
        kept.update((values, values[rows[p]].clone()) for p in rows for values in _values(p))

    @torch.no_grad()
    def restore(*_: object) -> None:
        for parameter, row in rows.items():
            for values in _values(parameter):
                values[row] = kept.get(values, 0)  # momentum buffers start at 0

    def _values(parameter: Tensor) -> list[Tensor]:
        """Returns a parameter and the optimizer's state tensors of the same shape."""
        state = optimizer.state[parameter].values() if parameter in optimizer.state else ()
        same = [v for v in state if isinstance(v, Tensor) and v.shape == parameter.shape]
        return [parameter, *same]

    hooks = optimizer.register_step_pre_hook(keep), optimizer.register_step_post_hook(restore)
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()

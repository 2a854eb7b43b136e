"""What attacks share: declared traits, a required generator, and leaving everything unchanged."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from robustnorm.attacks.logits import Model

_Attack = TypeVar("_Attack", bound=Callable[..., Tensor])


def traits(
    *,
    per_image: bool = False,
    blind: bool = False,
    check: Callable[..., object] | None = None,
) -> Callable[[_Attack], _Attack]:
    """Returns a decorator that declares properties of an attack for evaluations.

    Args:
        per_image: The attack draws no random numbers, and an image's result does not depend on the
            images beside it, so an evaluation may run it on a fast copy of the network in batches
            of any size. Other attacks receive the network itself and whole chunks of images.
        blind: The attack needs no gradients, so an evaluation may run it on any network.
        check: Called with the attack's options before work starts; raises an ImportError when a
            package is missing, a ValueError on an invalid option.
    """

    def mark(attack: _Attack) -> _Attack:
        marked: Any = attack
        marked.per_image, marked.blind, marked.check = per_image, blind, check
        return attack

    return mark


def require_generator(generator: torch.Generator | None, alternative: str = "") -> torch.Generator:
    """Returns the generator, or raises a ValueError: attacks have no default seed."""
    if generator is None:
        raise ValueError(
            "this attack is random: pass generator=torch.Generator().manual_seed(seed)"
            + alternative
        )
    return generator


def is_training(model: nn.Module) -> bool:
    """Returns whether any module is in train mode; frozen TorchScript has no mode."""
    return any(getattr(module, "training", False) for module in model.modules())


@contextmanager
def unchanged(model: Model) -> Iterator[None]:
    """Restores the model's buffers and train or eval modes after the block.

    Does nothing for a function.
    """
    if not isinstance(model, nn.Module):
        yield
        return
    modes = [(m, m.training) for m in model.modules() if hasattr(m, "training")]
    buffers = [
        (module, name, buffer, buffer.clone())
        for module in model.modules()
        for name, buffer in module.named_buffers(recurse=False)
    ]
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training
        for module, name, buffer, before in buffers:
            # Through data, which hides the change from autograd: an earlier forward, which saved
            # the buffer with the same values, can still be followed by its backward.
            buffer.data.copy_(before)
            if getattr(module, name) is not buffer:  # the forward has assigned a new tensor
                setattr(module, name, buffer)


@contextmanager
def undisturbed() -> Iterator[None]:
    """Leaves the caller's inference mode, which has no gradients, and its autocast, for the block.

    Gradients are enabled in the block. Autocast would also affect backward passes. A network's
    autocast inside its forward still applies.
    """
    with ExitStack() as stack:
        stack.enter_context(torch.inference_mode(False))
        for device in ("cpu", "cuda"):
            stack.enter_context(torch.autocast(device, enabled=False))
        yield


class Shell(nn.Module):
    """A module around any model, for libraries that need one and would change the model's mode.

    ``train`` and ``eval`` affect only the shell; its one parameter tells libraries the device.
    """

    def __init__(self, model: Model, device: torch.device) -> None:
        super().__init__()
        self._call = (model,)  # in a tuple, so that it is not a submodule
        self.device_holder = nn.Parameter(torch.empty(0, device=device), requires_grad=False)

    def forward(self, images: Tensor) -> Tensor:
        return self._call[0](images)


@contextmanager
def seeded(generator: torch.Generator, device: torch.device) -> Iterator[int]:
    """Seeds the global random states from the generator for the block, then restores them.

    For libraries that use them. Yields the seed.
    """
    seed = int(torch.randint(2**31, (), generator=generator, device=generator.device))
    python_state, numpy_state = random.getstate(), np.random.get_state()  # noqa: NPY002
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        random.seed(seed)
        np.random.seed(seed)  # noqa: NPY002 (the state that those libraries use)
        torch.manual_seed(seed)
        try:
            yield seed
        finally:
            random.setstate(python_state)
            np.random.set_state(numpy_state)  # noqa: NPY002

"""What every attack checks and keeps."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

Model = Callable[[Tensor], Tensor]
_Attack = TypeVar("_Attack", bound=Callable[..., Tensor])


def traits(
    *, per_image: bool = False, check: Callable[..., object] | None = None
) -> Callable[[_Attack], _Attack]:
    """Returns a decorator that says of an attack what an evaluation would know of it.

    Args:
        per_image: It draws nothing, and an image's result does not depend on the images beside it:
            an evaluation lets it search on a fast copy of the network, in batches of any size. One
            without this trait is given the network itself and whole chunks of images.
        check: Called with the attack's options before minutes of work; raises an ImportError when
            its package is missing, a ValueError on an option that names nothing.
    """

    def mark(attack: _Attack) -> _Attack:
        given: Any = attack
        given.per_image, given.check = per_image, check
        return attack

    return mark


def check_inputs(
    images: Tensor, labels: Tensor, epsilon: float, threat_model: str = "linf"
) -> None:
    """Raises a ValueError on inputs that no attack takes; waits for the device once."""
    if not images.is_floating_point() or images.dim() < 2:
        raise ValueError(
            "images must be floating point of shape (N, C, H, W) in [0, 1], got "
            f"{images.dtype} of shape {tuple(images.shape)}"
        )
    if labels.dtype != torch.int64 or labels.shape != images.shape[:1]:
        raise ValueError(
            f"labels must be int64 of shape ({len(images)},), got {labels.dtype} of shape "
            f"{tuple(labels.shape)}"
        )
    if not epsilon >= 0:
        raise ValueError(f"epsilon must be at least 0, got {epsilon}")
    if threat_model == "linf" and epsilon > 1:
        raise ValueError(f"epsilon must be in [0, 1], such as 8/255, got {epsilon}")
    if images.numel():
        low, high = torch.stack(images.detach().aminmax()).tolist()
        if not (low >= 0 and high <= 1):
            raise ValueError(
                f"images must lie in [0, 1], got values from {low:.4g} to {high:.4g}; mean and "
                "std normalization belong inside the model"
            )


def require_generator(generator: torch.Generator | None, alternative: str = "") -> torch.Generator:
    """Returns the generator, or raises a ValueError: no attack draws from a seed of its own."""
    if generator is None:
        raise ValueError(
            "this attack is random: pass generator=torch.Generator().manual_seed(seed)"
            + alternative
        )
    return generator


@contextmanager
def unchanged(model: Model) -> Iterator[None]:
    """Puts the model's buffers and train or eval modes back after the block.

    A function that is no module keeps nothing that an attack could know of.
    """
    if not isinstance(model, nn.Module):
        yield
        return
    modes = [(module, module.training) for module in model.modules()]
    buffers = [(buffer, buffer.clone()) for buffer in model.buffers()]
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training
        with torch.no_grad():
            for buffer, before in buffers:
                buffer.copy_(before)


class Shell(nn.Module):
    """A module around any model, for libraries that want one and would change the model's mode.

    ``train`` and ``eval`` end at the shell; its one parameter tells the device.
    """

    def __init__(self, model: Model, device: torch.device) -> None:
        super().__init__()
        self._call = (model,)  # in a tuple, so that it is no submodule
        self.place = nn.Parameter(torch.empty(0, device=device), requires_grad=False)

    def forward(self, images: Tensor) -> Tensor:
        return self._call[0](images)


@contextmanager
def seeded(generator: torch.Generator, device: torch.device) -> Iterator[int]:
    """Seeds the global random states from the generator for the block, then puts them back.

    For libraries that draw from them. Yields the seed.
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

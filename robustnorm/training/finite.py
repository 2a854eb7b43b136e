"""Finds the first step whose loss or gradient is not finite, and restores the state before it."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

from robustnorm.data.batches import Batch
from robustnorm.training.progress import NonFiniteLossError

# Steps between two checks on a GPU, since each check waits for it.
_EVERY = 20


def reading_waits(device: torch.device) -> bool:
    """Returns whether reading a value waits for the device."""
    return device.type != "cpu"


def gradient_norm(model: nn.Module) -> Tensor:
    """Returns the Euclidean norm of the gradient, a scalar.

    It is not finite if a value of the gradient is not, or if the sum of squares overflows.
    """
    return nn.utils.get_total_norm([p.grad for p in model.parameters() if p.grad is not None])


def non_finite(clean_loss: Tensor, adv_loss: Tensor | None, gradient: Tensor) -> str:
    """Returns what is not finite: "loss", "gradient", or "" for neither. Waits for the device.

    Args:
        clean_loss: Scalar.
        adv_loss: Scalar or None.
        gradient: Norm of the gradient, a scalar.
    """
    losses = clean_loss if adv_loss is None else clean_loss + adv_loss
    if not losses.isfinite():
        return "loss"
    return "" if gradient.isfinite() else "gradient"


class FiniteSteps:
    """Checks the steps of an epoch and undoes the first one that is not finite.

    On the CPU each step is checked before its update. On a GPU a check has to wait for the device,
    so several steps are checked together; if one was not finite, the state before them is restored
    and they are repeated one by one.

    Args:
        model: The network.
        optimizer: For its parameters.
        epoch: From 0.
        take_again: Repeats the steps from the first number to before the second, one per
            iteration, under a ``FiniteSteps`` without ``take_again``. If None, each step is checked
            before its update.
        every: Number of steps that are checked together.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        epoch: int,
        take_again: Callable[[int, int], Iterable[int]] | None = None,
        every: int = _EVERY,
    ) -> None:
        self._model = model
        self._optimizer = optimizer
        self._epoch = epoch
        self._take_again = take_again
        self._every = every
        self._buffers: list[Tensor] = []
        self._flags: list[Tensor] = []
        self._first = 0  # step of the first flag
        self._before: list[tuple[Tensor, Tensor]] = []  # weights and momenta, and their old values

    def begin(self, step: int) -> None:
        """Must be called before each step, counted from 0."""
        if self._take_again is None:
            self._keep_buffers()
        elif not self._flags:
            self._first = step
            self._keep_buffers()
            self._before = [(value, value.detach().clone()) for value in self._state()]

    def inspect(
        self, step: int, batch: Batch, clean_loss: Tensor, adv_loss: Tensor | None, gradient: Tensor
    ) -> None:
        """Must be called between the backward pass and the update.

        Raises:
            NonFiniteLossError: When steps are checked one by one and this one is not finite.
        """
        if self._take_again is not None:
            losses = clean_loss if adv_loss is None else clean_loss + adv_loss
            self._flags.append((losses.detach() + gradient).isfinite())
            return
        what = non_finite(clean_loss, adv_loss, gradient)
        if what:
            self._restore_buffers()
            raise NonFiniteLossError(self._epoch + 1, step + 1, what, batch)

    def end(self) -> None:
        """Must be called after the update; checks the pending steps once there are enough."""
        if len(self._flags) >= self._every:
            self.check()

    def check(self) -> None:
        """Checks the steps since the last check; waits for the device.

        Raises:
            NonFiniteLossError: When one of them was not finite.
        """
        flags, self._flags = self._flags, []
        if self._take_again is None or not flags or torch.stack(flags).all():
            return
        known = {id(value) for value, _ in self._before}
        self._restore_buffers()
        with torch.no_grad():
            for value, before in self._before:
                value.copy_(before)
        for state in self._optimizer.state.values():
            momentum = state.get("momentum_buffer")
            if momentum is not None and id(momentum) not in known:  # did not exist before
                del state["momentum_buffer"]
        # A GPU may sum in another order, so that all is finite now; then training simply continues.
        for _ in self._take_again(self._first, self._first + len(flags)):
            pass

    def _keep_buffers(self) -> None:
        self._buffers = [buffer.clone() for buffer in self._model.buffers()]

    @torch.no_grad()
    def _restore_buffers(self) -> None:
        # Into the present buffers: a forward may have assigned new tensors.
        for buffer, before in zip(self._model.buffers(), self._buffers, strict=True):
            buffer.copy_(before)

    def _state(self) -> list[Tensor]:
        momenta = [state.get("momentum_buffer") for state in self._optimizer.state.values()]
        return [
            *self._model.parameters(),
            *(momentum for momentum in momenta if momentum is not None),
        ]

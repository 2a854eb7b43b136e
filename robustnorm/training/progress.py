"""What training reports: a record per epoch, its position, and why it stopped early."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from robustnorm.data.batches import Batch
from robustnorm.system.stopping import Stopped


@dataclass(frozen=True)
class BranchValidation:
    """Accuracies (fractions) and mean losses (nats) of one branch on held-out images."""

    sa: float
    ra: float
    clean_loss: float
    adv_loss: float


@dataclass(frozen=True)
class EpochRecord:
    """Results of one epoch; the losses are means over its training images."""

    epoch: int
    learning_rate: float
    clean_loss: float
    adv_loss: float | None
    validation: dict[str, BranchValidation]
    test: dict[str, BranchValidation]  # empty without ``test`` images
    seconds: float  # of the training steps
    validation_seconds: float  # of held-out and test images
    images_per_second: float

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Position:
    """A point between two training steps; with weights and momentum, all that it takes to continue.

    Args:
        epoch: Number of epochs done.
        losses: Clean and adversarial loss of each step done in the epoch that follows.
        seconds: Time spent on those steps.
    """

    epoch: int = 0
    losses: list[list[float]] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def step(self) -> int:
        """Number of steps done in the epoch that follows."""
        return len(self.losses)


class TrainingStopped(Stopped):
    """Training was stopped between two steps, at ``position``."""

    def __init__(self, position: Position) -> None:
        super().__init__(f"stopped in epoch {position.epoch + 1} after step {position.step}")
        self.position = position


class NonFiniteLossError(RuntimeError):
    """A loss or the gradient became infinite or NaN.

    Args:
        epoch: Epoch of the step, counted from 1.
        step: The first such step of that epoch, counted from 1.
        what: ``"loss"`` or ``"gradient"``.
        batch: The batch of the step.
    """

    def __init__(self, epoch: int, step: int, what: str, batch: Batch) -> None:
        super().__init__(f"the {what} is not finite from step {step} of epoch {epoch} on")
        self.epoch = epoch
        self.step = step
        self.what = what
        self.batch = batch

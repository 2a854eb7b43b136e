"""What training tells its caller: a record an epoch, where it stands, why it ended early."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from robustnorm.data.batches import Batch
from robustnorm.system.stopping import Stopped


@dataclass(frozen=True)
class BranchValidation:
    """Validation through one branch: accuracies and mean losses, all fractions and nats."""

    sa: float
    ra: float
    clean_loss: float
    adv_loss: float


@dataclass(frozen=True)
class EpochRecord:
    """What one epoch did; the losses are means over its training images."""

    epoch: int
    learning_rate: float
    clean_loss: float
    adv_loss: float | None
    validation: dict[str, BranchValidation]
    test: dict[str, BranchValidation]  # empty where no test images were followed
    seconds: float  # of the training steps
    validation_seconds: float  # of held-out and followed test images
    images_per_second: float

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Position:
    """Where a run stands between two steps; with weights and momentum, all that it needs to go on.

    Args:
        epoch: Epochs done.
        losses: Clean and adversarial loss of each step done of the next epoch.
        seconds: Spent on those steps.
    """

    epoch: int = 0
    losses: list[list[float]] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def step(self) -> int:
        """Steps done of the next epoch."""
        return len(self.losses)


class TrainingStopped(Stopped):
    """Training was stopped between two steps, at ``position``."""

    def __init__(self, position: Position) -> None:
        super().__init__(f"stopped in epoch {position.epoch + 1} after step {position.step}")
        self.position = position


class NonFiniteLossError(RuntimeError):
    """A loss or the gradient became infinite or not a number.

    Args:
        epoch: Epoch of the step, from 1.
        step: First such step of that epoch, from 1.
        what: ``"loss"`` or ``"gradient"``.
        batch: Of the step.
    """

    def __init__(self, epoch: int, step: int, what: str, batch: Batch) -> None:
        super().__init__(f"the {what} is not finite since step {step} of epoch {epoch}")
        self.epoch = epoch
        self.step = step
        self.what = what
        self.batch = batch

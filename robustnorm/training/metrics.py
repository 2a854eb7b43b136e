"""Training curves for TensorBoard."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from robustnorm.system.extras import extra
from robustnorm.training.progress import EpochRecord


class TensorBoard:
    """Writes epoch records for TensorBoard.

    Args:
        folder: Folder of the event files.
        enabled: If False, no call does anything.
        first_epoch: Number of epochs already done; records of later epochs, left by an interrupted
            attempt, are hidden.

    Raises:
        ImportError: When enabled and TensorBoard is not installed.
    """

    def __init__(self, folder: Path, *, enabled: bool, first_epoch: int = 0) -> None:
        self._writer: Any = None
        if enabled:
            with extra("track", "--tensorboard true needs TensorBoard"):
                from torch.utils.tensorboard import SummaryWriter
            self._writer = SummaryWriter(str(folder), purge_step=first_epoch + 1)

    def write(self, record: EpochRecord) -> None:
        if self._writer is None:
            return
        scalars = {
            "loss/clean": record.clean_loss,
            "loss/adv": record.adv_loss,
            "learning_rate": record.learning_rate,
            "images_per_second": record.images_per_second,
        }
        for split, measured in (("validation", record.validation), ("test", record.test)):
            for branch, values in measured.items():
                for name in ("sa", "ra", "clean_loss", "adv_loss"):
                    scalars[f"{split}/{branch}/{name}"] = getattr(values, name)
        for name, value in scalars.items():
            if value is not None:
                self._writer.add_scalar(name, value, record.epoch)
        self._writer.flush()

    def __enter__(self) -> TensorBoard:
        return self

    def __exit__(self, *_: object) -> None:
        if self._writer is not None:
            self._writer.close()

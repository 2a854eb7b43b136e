"""Settings of ``robustnorm export``; no torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from robustnorm.data import check_data
from robustnorm.settings.base import Settings, names
from robustnorm.settings.config import Config


@dataclass(frozen=True)
class ExportSettings(Settings):
    """What to export of a trained run, and where to write it.

    Args:
        run: Folder of the run, such as checkpoints/digits/saauxbn-seed0.
        to: Format: torch-export and onnx are programs with one branch's weights, for any batch
            size; safetensors and huggingface are its weights with a description of the network,
            for loading with robustnorm.
        branch: Branch to export, such as adv; not needed for a network without branches.
        checkpoint: best, last, or epoch followed by a number.
        output: File to write (huggingface: folder); in the run's folder by default.
        check_images: Random images on which the exported file must agree with the network.
        image_size: Height and width of these images; by default that of the run's data.
        data: The run's data (digits, cifar10 or a path), to check on test images as well.
        data_root: Folder for downloads, unpacked archives and decoded images.
        reports: Folder of result records, for the tables of the huggingface card.
        network: The run's network if it is a function in a module, which is imported only if its
            name is typed here.
        push: Hugging Face repository, owner/name, to upload to (needs the extra "hub").
    """

    only_in_files: ClassVar[frozenset[str]] = names(Config) - {
        *("checkpoint", "data", "data_root", "output", "reports", "network"),
    }
    # In a config, output is the folder of checkpoints, and network that of training.
    other_in_files: ClassVar[frozenset[str]] = frozenset({"output", "network"})

    run: str
    to: Literal["torch-export", "onnx", "safetensors", "huggingface"] = "torch-export"
    branch: str | None = None
    checkpoint: str = "best"
    output: str | None = None
    check_images: int = 1000
    image_size: int | None = None
    data: str | None = None
    data_root: str = "data"
    reports: str = "reports"
    network: str | None = None
    push: str | None = None

    def __post_init__(self) -> None:
        self._tag("checkpoint")
        self._least(1, "check_images", *(["image_size"] if self.image_size is not None else []))
        if self.push is not None and self.to != "huggingface":
            raise ValueError(f"push needs --to huggingface, got --to {self.to}")
        if self.data is not None:
            check_data(self.data)

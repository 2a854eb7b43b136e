"""Random augmentations of training images; each image's is independent of the others'."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from robustnorm.data.dataset import Augmentation
from robustnorm.data.decoding import Crop

# Aspect ratios (width over height) of a random resized crop.
_RATIOS = (3 / 4, 4 / 3)


@dataclass(frozen=True, eq=False)
class Changes:
    """The augmentations of every training image in one epoch.

    Args:
        augmentation: The kinds of augmentation.
        offsets: Corner (row, column) of each image's crop in its padded version, (N, 2).
        flips: Which images are mirrored, (N,).
        crops: Area, ratio, left and top of the crop to decode, (N, 4); None for whole images.
    """

    augmentation: Augmentation
    offsets: Tensor
    flips: Tensor
    crops: Tensor | None

    def to(self, device: torch.device) -> Changes:
        return Changes(
            self.augmentation, self.offsets.to(device), self.flips.to(device), self.crops
        )

    def crop(self, row: int) -> Crop | None:
        """Returns the crop of an image to decode."""
        return None if self.crops is None else Crop(*self.crops[row].tolist())

    def apply(self, images: Tensor, ids: Tensor) -> Tensor:
        """Returns images, uint8 (B, C, H, W), augmented according to their ids."""
        if self.augmentation.padding and self.crops is None:
            images = _crop(images, self.augmentation.padding, self.offsets[ids])
        if self.augmentation.flip:
            images = torch.where(self.flips[ids, None, None, None], images.flip(3), images)
        return images


def draw_changes(n: int, augmentation: Augmentation, generator: torch.Generator) -> Changes:
    """Draws the augmentations of n images; each kind is independent of the others."""
    offsets = torch.randint(0, 2 * augmentation.padding + 1, (n, 2), generator=generator)
    flips = torch.rand(n, generator=generator) < 0.5
    if augmentation.crop_area is None:
        return Changes(augmentation, offsets, flips, None)
    crops = torch.rand(n, 4, generator=generator)
    crops[:, 0] = augmentation.crop_area + (1 - augmentation.crop_area) * crops[:, 0]
    low, high = torch.tensor(_RATIOS).log()
    crops[:, 1] = (low + (high - low) * crops[:, 1]).exp()
    return Changes(augmentation, offsets, flips, crops)


def _crop(images: Tensor, padding: int, offsets: Tensor) -> Tensor:
    """Crops a window from each zero-padded image, given its corner (row, column)."""
    n, _, height, width = images.shape
    padded = F.pad(images, (padding,) * 4)
    rows = offsets[:, 0, None] + torch.arange(height, device=images.device)
    columns = offsets[:, 1, None] + torch.arange(width, device=images.device)
    each = torch.arange(n, device=images.device)[:, None, None]
    # Advanced indices around a slice put their dimensions first: (N, H, W, C).
    return padded[each, :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)

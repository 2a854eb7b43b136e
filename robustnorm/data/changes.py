"""Random changes of training images: which one an image is given depends on no other image."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from robustnorm.data.dataset import Augmentation
from robustnorm.data.decoding import Crop

# Width over height of a part that is scaled to the whole.
_RATIOS = (3 / 4, 4 / 3)


@dataclass(frozen=True, eq=False)
class Changes:
    """The changes of every training image in one epoch.

    Args:
        augmentation: Of which kind.
        offsets: Corner (row, column) of each image's crop from its padded self, (N, 2).
        flips: Which images are mirrored, (N,).
        crops: Area, ratio, left and top of the part that is decoded, (N, 4); None for the whole.
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
        """Returns the part of an image that is to be decoded."""
        return None if self.crops is None else Crop(*self.crops[row].tolist())

    def apply(self, images: Tensor, ids: Tensor) -> Tensor:
        """Returns images, uint8 (B, C, H, W), changed as their ids say."""
        if self.augmentation.padding and self.crops is None:
            images = _crop(images, self.augmentation.padding, self.offsets[ids])
        if self.augmentation.flip:
            images = torch.where(self.flips[ids, None, None, None], images.flip(3), images)
        return images


def draw_changes(n: int, augmentation: Augmentation, generator: torch.Generator) -> Changes:
    """Draws the changes of n images; those of one kind do not depend on the others."""
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
    """Returns from each zero-padded image the window whose corner (row, column) is given."""
    n, _, height, width = images.shape
    padded = F.pad(images, (padding,) * 4)
    rows = offsets[:, 0, None] + torch.arange(height, device=images.device)
    columns = offsets[:, 1, None] + torch.arange(width, device=images.device)
    each = torch.arange(n, device=images.device)[:, None, None]
    # Advanced indices around a slice put their dimensions first: (N, H, W, C).
    return padded[each, :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)

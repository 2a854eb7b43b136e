"""Adding a data set in one file: stripes, horizontal or vertical.

    python examples/add_dataset.py train --data stripes --epochs 3 --width 8
    python examples/add_dataset.py eval --data stripes --epochs 3 --width 8 --attacks "[fgsm]"

One line registers its name for ``load_dataset`` and every command; the arguments are those of
``robustnorm``. To add it to the package, put the function into robustnorm/data/ and the line into
``DATASETS``. A folder of images needs neither: give its path.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Sequence

import torch

from robustnorm.cli import main as robustnorm
from robustnorm.data import DATASETS
from robustnorm.data.dataset import Augmentation, Dataset, Split

SIZE = 8


def load_stripes() -> Dataset:
    """Returns 512 training and 128 test images, grey, each with one orientation and phase.

    A loader may also take ``root``, the folder ``--data_root``, and ``download``.
    """
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(640) % 2
    phase = torch.randint(4, (640, 1, 1), generator=generator)
    rows = ((torch.arange(SIZE)[:, None] + phase) // 2 % 2).expand(-1, SIZE, SIZE)
    images = torch.where(labels[:, None, None] == 0, rows, rows.transpose(1, 2))
    noise = torch.randint(64, images.shape, generator=generator)
    images = (images * 191 + noise).to(torch.uint8)[:, None]
    return Dataset(
        name="stripes",
        classes=("horizontal", "vertical"),
        train=Split(images[:512], labels[:512]),
        test=Split(images[512:], labels[512:]),
        augmentation=Augmentation(),
        sha256=hashlib.sha256(images.numpy().tobytes() + labels.numpy().tobytes()).hexdigest(),
    )


DATASETS["stripes"] = load_stripes


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command of ``robustnorm`` with the data set registered."""
    return robustnorm(sys.argv[1:] if arguments is None else list(arguments))


if __name__ == "__main__":
    sys.exit(main())

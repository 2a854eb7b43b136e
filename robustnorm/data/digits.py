from __future__ import annotations

import hashlib

import torch

from robustnorm.data.dataset import Augmentation, Dataset, Split
from robustnorm.data.errors import DataError

_TEST_IMAGES = 500


def load_digits() -> Dataset:
    """Returns scikit-learn's 1,797 scanned digits, grey, 8 x 8: 1,297 training and 500 test images.

    Values 0..16 become 0..255. Digits are not augmented: a mirrored 2 is not a 2.

    Raises:
        DataError: When scikit-learn is not installed.

    References:
        Alpaydin & Kaynak, Optical Recognition of Handwritten Digits, UCI, 1998.
    """
    try:
        from sklearn import datasets
    except ImportError as error:
        raise DataError(
            "the digits come with scikit-learn, which is not installed: "
            'pip install "robustnorm[demo]"'
        ) from error
    values, labels = datasets.load_digits(return_X_y=True)
    images = torch.from_numpy(values).mul(255 / 16).round().to(torch.uint8).view(-1, 1, 8, 8)
    split = Split(images, torch.from_numpy(labels).long())
    order = torch.randperm(len(split), generator=torch.Generator().manual_seed(0))
    return Dataset(
        name="scikit-learn digits",
        classes=tuple("0123456789"),
        train=split.take(order[_TEST_IMAGES:]),
        test=split.take(order[:_TEST_IMAGES]),
        augmentation=Augmentation(),
        sha256=hashlib.sha256(images.numpy().tobytes() + labels.tobytes()).hexdigest(),
    )

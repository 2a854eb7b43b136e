import pytest
import torch

from robustnorm.data.dataset import Augmentation, Dataset, Split
from robustnorm.settings.nas import SearchSettings


@pytest.fixture
def dataset():
    """Noise of 8x8 in three classes."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (60, 3, 8, 8), generator=generator, dtype=torch.uint8)
    labels = torch.arange(60) % 3
    return Dataset(
        name="noise",
        classes=("a", "b", "c"),
        train=Split(images[:40], labels[:40]),
        test=Split(images[40:], labels[40:]),
        augmentation=Augmentation(padding=1, flip=True),
        sha256="0" * 64,
    )


@pytest.fixture
def settings(tmp_path):
    """Of a search of seconds, on scikit-learn's digits."""
    return SearchSettings(
        name="tiny",
        norm="sabn",
        channels=2,
        cells=1,
        batch_size=16,
        steps=8,
        stop_step=6,
        alpha_learning_rate=0.1,
        record_every=2,
        device="cpu",
        output=str(tmp_path / "checkpoints"),
        reports=str(tmp_path / "reports"),
    )

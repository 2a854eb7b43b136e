"""The classifier behind the small encoder: VGG-like, trained, then folded and cut."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.fusion import fuse_conv_bn_eval
from tqdm import tqdm

from robustnorm.applications.style.encoder import Encoder, color_standardization, vgg_layers
from robustnorm.data.batches import epoch_batches, steps_per_epoch, to_float
from robustnorm.data.dataset import Augmentation, Split
from robustnorm.settings.config import Config
from robustnorm.training.schedule import learning_rate

BATCH = 128
# Number of content crops on which the mean activations are measured.
CALIBRATION = 500
_SCHEDULE = Config(learning_rate=0.1, schedule="one-cycle")


class Classifier(nn.Module):
    """A VGG with batch norms, two convolutions per stage, a spatial mean and one linear layer.

    Args:
        widths: Channels of each stage.
        classes: Number of classes.
        mean: Mean of each color, which is subtracted from the images.
        std: Standard deviation of each color, by which they are then divided.

    Shape:
        (N, 3, H, W) in [0, 1] to (N, classes).
    """

    def __init__(
        self, widths: Sequence[int], classes: int, mean: Sequence[float], std: Sequence[float]
    ) -> None:
        super().__init__()
        self.features = vgg_layers(widths, (2,) * len(widths), batch_norm=True)
        self.features.load_state_dict(
            self.features.state_dict()
            | color_standardization(torch.tensor(mean), torch.tensor(std))
        )
        self.features[0].requires_grad_(False)
        self.fc = nn.Linear(widths[-1], classes)

    def forward(self, images: Tensor) -> Tensor:
        features: Tensor = self.features(images)
        logits: Tensor = self.fc(features.mean((2, 3)))
        return logits


def train_epoch(
    model: Classifier,
    optimizer: torch.optim.Optimizer,
    split: Split,
    augmentation: Augmentation,
    *,
    epoch: int,
    epochs: int,
    stop: Callable[[], bool] = lambda: False,
) -> bool:
    """Trains for one epoch of a one-cycle schedule, in place.

    Args:
        model: On the device of the images.
        optimizer: For its parameters; the learning rate is set here.
        split: Training images.
        augmentation: Augments the training images.
        epoch: The epoch, counted from 0.
        epochs: Total number of epochs.
        stop: Called before each step; the epoch is abandoned when it returns True.

    Returns:
        Whether the epoch was completed.
    """
    model.train()
    steps = steps_per_epoch(len(split), min(BATCH, len(split)))
    batches = epoch_batches(
        split, batch_size=min(BATCH, len(split)), seed=0, epoch=epoch, augmentation=augmentation
    )
    schedule = Config.from_dict(_SCHEDULE.to_dict() | {"epochs": epochs})
    title = f"encoder, epoch {epoch + 1}/{epochs}"
    for step, batch in enumerate(tqdm(batches, desc=title, total=steps, disable=None)):
        if stop():
            return False
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(schedule, epoch * steps + step, steps)
        loss = F.cross_entropy(model(batch.images), batch.labels)
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        optimizer.step()
    return True


@torch.no_grad()
def accuracy(model: Classifier, split: Split) -> float:
    """Returns the fraction of images classified correctly in evaluation mode."""
    model.eval()
    correct = sum(
        (model(to_float(images)).argmax(1) == labels).sum().item()
        for images, labels in zip(
            torch.split(split.images, 500), torch.split(split.labels, 500), strict=True
        )
    )
    return float(correct / len(split))


@torch.no_grad()
def fold_encoder(model: Classifier, cut: int) -> Encoder:
    """Returns the layers up to the first ReLU of stage ``cut``, with batch norms fused.

    Args:
        model: The classifier; left unchanged, except that it is put in evaluation mode.
        cut: Number of stages to keep, the last one with one convolution.
    """
    model.eval()
    widths = [layer.out_channels for layer in model.features if isinstance(layer, nn.Conv2d)][1::2]
    encoder = Encoder(widths[:cut], (2,) * (cut - 1) + (1,))
    trained = iter(model.features)
    for layer in encoder.layers:
        source = next(trained)
        if not isinstance(layer, nn.Conv2d):
            continue
        assert isinstance(source, nn.Conv2d)
        if layer.kernel_size != (1, 1):
            norm = next(trained)
            assert isinstance(norm, nn.BatchNorm2d)
            source = fuse_conv_bn_eval(source, norm)
        layer.load_state_dict(source.state_dict())
    return encoder

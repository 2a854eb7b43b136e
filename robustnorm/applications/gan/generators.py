"""Generators whose normalization layers depend on the class: SNGAN, BigGAN and AutoGAN-top1.

Each maps latent vectors to images in [-1, 1] and takes the labels from ``route``. Each has three
stages that double the size, with two conditional norms per stage.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import spectral_norm

from robustnorm.norms import CCBN, SaBN

Norm = Callable[[int], nn.Module]
Mode = Literal["nearest", "bilinear"]

# Factor by which the three stages enlarge height and width.
ENLARGED = 8


def conditional_norm(name: str, num_classes: int) -> Norm:
    """Returns a constructor of the named norm with one affine per class.

    Raises:
        ValueError: On an unknown name.
    """
    layers: dict[str, type[CCBN | SaBN]] = {"ccbn": CCBN, "sabn": SaBN}
    if name not in layers:
        raise ValueError(f"a conditional norm must be 'ccbn' or 'sabn', got '{name}'")
    return lambda num_features: layers[name](num_features, num_classes)


class UpBlock(nn.Module):
    """Norm, ReLU, upsampling, 3x3, norm, ReLU, 3x3, in parallel with an upsampled 1x1 shortcut.

    Shape:
        (N, channels, H, W) to (N, channels, 2 H, 2 W).
    """

    def __init__(self, channels: int, norm: Norm) -> None:
        super().__init__()
        self.norm1 = norm(channels)
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.norm2 = norm(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)
        self.shortcut = nn.Conv2d(channels, channels, 1)

    def forward(self, input: Tensor) -> Tensor:
        hidden = self.conv1(_enlarge(F.relu(self.norm1(input)), "nearest"))
        # A 1x1 convolution commutes with upsampling and is cheaper before it.
        shortcut = _enlarge(self.shortcut(input), "nearest")
        output: Tensor = self.conv2(F.relu(self.norm2(hidden))) + shortcut
        return output


class ResidualGenerator(nn.Module):
    """SNGAN's generator; with spectral normalization, BigGAN's for 32x32 images.

    Args:
        norm: ``"ccbn"`` or ``"sabn"``.
        num_classes: Number of classes.
        width: Channels of every stage.
        latent_dim: Length of a latent vector.
        image_size: Height and width of an image, a multiple of 8.
        channels: Channels of an image.
        spectral: Divide the weight of each convolution and of the linear layer by its largest
            singular value.

    Shape:
        latents (N, latent_dim) to images (N, channels, image_size, image_size) in [-1, 1].

    Raises:
        ValueError: On an unknown norm or an invalid size.
        RoutingError: In the forward pass, outside ``route(generator, labels)``.

    References:
        Miyato & Koyama, cGANs with Projection Discriminator, arXiv:1802.05637; Brock et al.,
        arXiv:1809.11096. As in those authors' PyTorch port for CIFAR-10, the class embeddings are
        not spectrally normalized.

    Examples:
        >>> import torch
        >>> from robustnorm import route
        >>> generator = ResidualGenerator("sabn", num_classes=3, width=4, image_size=16)
        >>> with route(generator, torch.tensor([0, 2])):
        ...     generator(torch.randn(2, 128)).shape
        torch.Size([2, 3, 16, 16])
    """

    def __init__(
        self,
        norm: str,
        *,
        num_classes: int,
        width: int = 256,
        latent_dim: int = 128,
        image_size: int = 32,
        channels: int = 3,
        spectral: bool = False,
    ) -> None:
        super().__init__()
        make = conditional_norm(norm, num_classes)
        self.linear = _first_layer(latent_dim, width, image_size)
        self.block1 = UpBlock(width, make)
        self.block2 = UpBlock(width, make)
        self.block3 = UpBlock(width, make)
        self.output = _to_image(width, channels)
        if spectral:
            normalize_spectrally(self)

    def forward(self, latents: Tensor) -> Tensor:
        features = self.block1(self.linear(latents))
        images: Tensor = self.output(self.block3(self.block2(features)))
        return images


class Cell(nn.Module):
    """A cell of AutoGAN: an ``UpBlock`` that also adds intermediate outputs of earlier cells.

    Args:
        channels: Channels of input and output.
        norm: Constructor of a conditional norm.
        mode: Mode of all upsampling in the cell.
        skips: Number of earlier cells.
        shortcut: Whether the cell has a 1x1 shortcut.
    """

    def __init__(self, channels: int, norm: Norm, mode: Mode, *, skips: int, shortcut: bool):
        super().__init__()
        self.mode = mode
        self.norm1 = norm(channels)
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.skips = nn.ModuleList(nn.Conv2d(channels, channels, 1) for _ in range(skips))
        self.norm2 = norm(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)
        self.shortcut = nn.Conv2d(channels, channels, 1) if shortcut else None

    def forward(self, input: Tensor, earlier: tuple[Tensor, ...] = ()) -> tuple[Tensor, Tensor]:
        """Returns the first convolution's output plus the skips, and the cell's output.

        ``earlier`` are the first of these outputs of each earlier cell.
        """
        first = self.conv1(_enlarge(F.relu(self.norm1(input)), self.mode))
        for skip, other in zip(self.skips, earlier, strict=True):
            first = first + _enlarge(skip(other), self.mode, first.shape[2])
        output = self.conv2(F.relu(self.norm2(first)))
        if self.shortcut is not None:
            output = output + _enlarge(self.shortcut(input), self.mode)
        return first, output


class CellGenerator(nn.Module):
    """AutoGAN-top1's generator, with the conditional norms that Gong et al. add to its cells.

    See ``ResidualGenerator`` for arguments, shapes and errors.

    References:
        Gong et al., AutoGAN, arXiv:1908.03835; Sandwich Batch Normalization, arXiv:2102.11382.

    Examples:
        >>> import torch
        >>> from robustnorm import route
        >>> generator = CellGenerator("ccbn", num_classes=3, width=4, image_size=16)
        >>> with route(generator, torch.tensor([0, 2])):
        ...     generator(torch.randn(2, 128)).shape
        torch.Size([2, 3, 16, 16])
    """

    def __init__(
        self,
        norm: str,
        *,
        num_classes: int,
        width: int = 256,
        latent_dim: int = 128,
        image_size: int = 32,
        channels: int = 3,
    ) -> None:
        super().__init__()
        make = conditional_norm(norm, num_classes)
        self.linear = _first_layer(latent_dim, width, image_size)
        self.cell1 = Cell(width, make, "nearest", skips=0, shortcut=True)
        self.cell2 = Cell(width, make, "bilinear", skips=1, shortcut=True)
        self.cell3 = Cell(width, make, "nearest", skips=2, shortcut=False)
        self.output = _to_image(width, channels)

    def forward(self, latents: Tensor) -> Tensor:
        first1, features = self.cell1(self.linear(latents))
        first2, features = self.cell2(features, (first1,))
        _, features = self.cell3(features, (first1, first2))
        images: Tensor = self.output(features)
        return images


def normalize_spectrally(network: nn.Module) -> None:
    """Divides the weight of each convolution, linear layer and embedding by its spectral norm.

    Runs one power iteration per forward pass in train mode, as SNGAN does.
    """
    for module in list(network.modules()):
        if isinstance(module, nn.Conv2d | nn.Linear | nn.Embedding):
            spectral_norm(module)


def _first_layer(latent_dim: int, width: int, image_size: int) -> nn.Sequential:
    if image_size < ENLARGED or image_size % ENLARGED:
        raise ValueError(f"image_size must be a multiple of {ENLARGED}, got {image_size}")
    bottom = image_size // ENLARGED
    return nn.Sequential(
        nn.Linear(latent_dim, width * bottom**2), nn.Unflatten(1, (width, bottom, bottom))
    )


def _to_image(width: int, channels: int) -> nn.Sequential:
    return nn.Sequential(
        nn.BatchNorm2d(width), nn.ReLU(), nn.Conv2d(width, channels, 3, padding=1), nn.Tanh()
    )


def _enlarge(features: Tensor, mode: Mode, size: int | None = None) -> Tensor:
    """Returns features at twice the height and width, or at the given size."""
    size = 2 * features.shape[2] if size is None else size
    if mode == "nearest":
        return F.interpolate(features, size=(size, size), mode="nearest")
    return F.interpolate(features, size=(size, size), mode="bilinear", align_corners=False)

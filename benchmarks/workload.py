"""Shared by the benchmarks: a network, images that need no download, and the machine's name."""

from __future__ import annotations

import platform
import resource
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from robustnorm import resnet18, route
from robustnorm.system.device import device_name

# Width at which a network is trained before it is widened.
_NARROW = 16
_TRAINING = 2048


def images_and_network(
    count: int, width: int, norm: str = "saauxbn", *, steps: int = 0
) -> tuple[Tensor, Tensor, nn.Module]:
    """Returns images of ten classes, labels, and a network in evaluation mode.

    An image is its class's smooth pattern plus an individual smooth pattern and noise. The network
    has seen them only to estimate its running statistics; with ``steps``, its branch "adv" is
    trained on other images instead.

    Args:
        count: Number of images.
        width: Width of the network; with ``steps``, a multiple of 16.
        norm: Norm of the network; with ``steps``, one whose layers are ``RoutedBatchNorm``.
        steps: Number of training steps, which are adversarial with radius 4/255.
    """
    images, labels = make_images(count)
    if steps:
        narrow = resnet18(norm, width=_NARROW)
        _train(narrow, *make_images(_TRAINING, seed=1), steps)
        network = _widen(narrow, resnet18(norm, width=width))
    else:
        network = resnet18(norm, width=width)
        with torch.no_grad():
            for _ in range(20):
                rows = torch.randint(len(images), (32,))
                for branch in ("clean", "adv"):
                    with route(network, branch):
                        network(images[rows])
    return images, labels, network.eval()


def make_images(count: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Returns images (count, 3, 32, 32) in [0, 1] and their labels; see ``images_and_network``."""
    torch.manual_seed(0)
    classes = _smooth(10)
    torch.manual_seed(seed)
    labels = torch.arange(count) % 10
    patterns = classes[labels] * 0.3 + _smooth(count) * 0.5
    return (0.1 + patterns + 0.1 * torch.rand_like(patterns)).clamp(0, 1), labels


def _train(network: nn.Module, images: Tensor, labels: Tensor, steps: int) -> None:
    """Trains the branch "adv" on images after one gradient step from a random start."""
    epsilon = 4 / 255
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9)
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = 0.1 * min(1, (step + 1) / 8) * (1 - step / steps)
        rows = torch.randint(len(images), (32,))
        inputs, targets = images[rows], labels[rows]
        with route(network, "adv"):
            adv_images = inputs + epsilon * (2 * torch.rand_like(inputs) - 1)
            adv_images.requires_grad_()
            loss = F.cross_entropy(network(adv_images), targets)
            (gradient,) = torch.autograd.grad(loss, adv_images)
            change = adv_images.detach() - inputs + 1.25 * epsilon * gradient.sign()
            adv_images = (inputs + change.clamp(-epsilon, epsilon)).clamp(0, 1)
            loss = F.cross_entropy(network(adv_images), targets)
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        optimizer.step()


def _widen(narrow: nn.Module, wide: nn.Module) -> nn.Module:
    """Copies each channel of ``narrow`` several times into ``wide``, which then computes the same.

    This gives a trained network of full width in the time that a narrow one takes.
    """
    state = {}
    for name, target in wide.state_dict().items():
        value = narrow.state_dict()[name]
        reads_channels = name == "fc.weight" or value.dim() == 4
        for dim, size in enumerate(target.shape):
            copies = size // value.shape[dim]
            value = value.repeat_interleave(copies, dim)
            if reads_channels and dim == 1:
                value = value / copies
        state[name] = value
    wide.load_state_dict(state)
    return wide


def _smooth(count: int) -> Tensor:
    coarse = torch.rand(count, 3, 8, 8)
    return F.interpolate(coarse, scale_factor=4, mode="bicubic").clamp(0, 1)


def synchronize(device: torch.device) -> None:
    """Waits for a GPU."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def machine(device: torch.device | None = None) -> str:
    """Describes device, torch and Python."""
    name = device_name(device or torch.device("cpu"))
    return f"{name}, torch {torch.__version__}, Python {platform.python_version()}"


def peak_mebibytes() -> int:
    """Returns the peak memory of this process, in MiB.

    On Linux a child's ``ru_maxrss`` starts at its parent's value, so /proc is read if it exists.
    """
    status = Path("/proc/self/status")
    if status.exists():
        peak = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(peak.split()[1]) // 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024

"""What the benchmarks share: a network, images that need no download, and a line on the machine."""

from __future__ import annotations

import platform
import resource
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from robustnorm import resnet18, route
from robustnorm.runs import device_name


def images_and_network(
    count: int, width: int, norm: str = "saauxbn", *, steps: int = 0
) -> tuple[Tensor, Tensor, nn.Module]:
    """Returns images of ten classes, labels, and a network in evaluation mode.

    An image is its class's smooth pattern, a smooth pattern of its own, and noise. The network is
    trained for some steps on clean images, without steps only its running statistics are.
    """
    torch.manual_seed(0)
    labels = torch.arange(max(count, 256)) % 10
    patterns = _smooth(10)[labels] * 0.3 + _smooth(len(labels)) * 0.5
    images = (0.1 + patterns + 0.1 * torch.rand_like(patterns)).clamp(0, 1)
    network = resnet18(norm, width=width)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.05 if steps else 0.0, momentum=0.9)
    for _ in range(max(steps, 20)):
        rows = torch.randint(len(images), (32,))
        optimizer.zero_grad()
        for branch in ("clean", "adv"):
            with route(network, branch), torch.set_grad_enabled(steps > 0):
                loss = F.cross_entropy(network(images[rows]), labels[rows])
            if steps:
                loss.backward()
        optimizer.step()
    return images[:count], labels[:count], network.eval()


def _smooth(count: int) -> Tensor:
    coarse = torch.rand(count, 3, 8, 8)
    return F.interpolate(coarse, scale_factor=4, mode="bicubic").clamp(0, 1)


def machine(device: torch.device | None = None) -> str:
    """Returns device, torch and Python in words."""
    name = device_name(device or torch.device("cpu"))
    return f"{name}, torch {torch.__version__}, Python {platform.python_version()}"


def peak_mebibytes() -> int:
    """Returns the largest memory that this process ever held.

    Linux counts ``ru_maxrss`` of a child from its parent's size, so its own file is asked first.
    """
    status = Path("/proc/self/status")
    if status.exists():
        peak = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(peak.split()[1]) // 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024

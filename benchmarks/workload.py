"""What the benchmarks share: a network, images that need no download, and a line on the machine."""

from __future__ import annotations

import platform
import resource

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from robustnorm import bind, resnet18, route
from robustnorm.runs import device_name


def images_and_network(
    count: int, width: int, norm: str = "saauxbn"
) -> tuple[Tensor, Tensor, nn.Module]:
    """Returns smooth random images, labels, and a network in evaluation mode.

    The running statistics are those of the images, and the labels are the network's own predictions
    through "adv", so that every image is classified correctly until it is attacked.
    """
    torch.manual_seed(0)
    coarse = torch.rand(max(count, 256), 3, 8, 8)
    images = F.interpolate(coarse, scale_factor=4, mode="bicubic").clamp(0, 1)
    network = resnet18(norm, width=width)
    with torch.no_grad():
        for branch in ("clean", "adv"):
            for _ in range(20):
                with route(network, branch):
                    network(images[torch.randperm(len(images))[:64]])
        network.eval()
        labels = torch.cat([bind(network, "adv")(part).argmax(1) for part in images.split(64)])
    return images[:count], labels[:count], network


def machine(device: torch.device | None = None) -> str:
    """Returns device, torch and Python in words."""
    name = device_name(device or torch.device("cpu"))
    return f"{name}, torch {torch.__version__}, Python {platform.python_version()}"


def peak_mebibytes() -> int:
    """Returns the largest memory that this process ever held."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024

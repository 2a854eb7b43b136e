"""A corpus of (network, weights file, data) as users bring them, in the layouts of public releases.

``SHAPES`` lists them; ``make`` writes the files of one into a folder.
"""

from collections.abc import Callable
from dataclasses import dataclass
from inspect import signature
from pathlib import Path
from typing import NamedTuple

import foreign_networks
import numpy as np
import torch
import yaml
from corpus_files import DATA, WEIGHTS
from tabulate import tabulate
from torch import Tensor, nn
from weight_files import other

from robustnorm import resnet18

BEGIN, END = "<!-- corpus: written by python tests/helpers/corpus.py -->", "<!-- end -->"
NONE = ("--input_normalization=none",)
NORMALIZED = ("--network_args={normalized: true}",)  # the network's code does it
STATED = ("--mean=0.5,0.5,0.5", "--std=0.25,0.25,0.25")


@dataclass(frozen=True)
class Shape:
    """What a user brings.

    Args:
        title: Whose code and what is particular about it, as the documentation lists it.
        network: A factory in ``foreign_networks``, a name of timm's, or "resnet18" for ours.
        weights: How its code saves weights, in the documentation's words; a key of ``WEIGHTS``.
        data: A key of ``DATA``.
        classes: Number of classes.
        size: Channels, height and width of an image.
        words: Options of the import, besides the network and the data.
        refused: Part of the sentence that refuses it; "" where it is evaluated.
    """

    title: str
    network: str
    weights: str
    data: str
    classes: int = 3
    size: tuple[int, int, int] = (3, 8, 8)
    words: tuple[str, ...] = NONE
    refused: str = ""


class Made(NamedTuple):
    """The network's name, the files, and float images in [0, 1] to the logits of its own code."""

    network: str
    weights: Path
    data: Path
    logits: Callable[[Tensor], Tensor]


CIFAR = {"classes": 10, "size": (3, 32, 32)}
GREY = {"size": (1, 8, 8)}
PARALLEL = "state_dict of DataParallel (`module.`)"
SHAPES = [
    Shape("TRADES, WideResNet with its unused block", "Wide", "state_dict",
          "CIFAR-10's python folder", **CIFAR),
    Shape("TRADES, network for MNIST without norms", "SmallCNN", "state_dict",
          "MNIST's idx files", **GREY),
    Shape("robust_overfitting, normalized outside", "ResNet",
          "`state_dict` with numpy scalars", "CIFAR-10's binary folder", **CIFAR, words=STATED),
    Shape("AWP", "Wide", PARALLEL, "`.npz`, test images alone", classes=10),
    Shape("MadryLab's robustness: the network twice, a tuple of logits and images",
          "AttackerModel", "`model`, optimizer, epoch", "folder of class folders", words=()),
    Shape("MadryLab's robustness, DataParallel", "AttackerModel", PARALLEL,
          "zip of class folders", words=()),
    Shape("RobustBench, DeepMind's WideResNet", "DeepMindWide", "state_dict",
          "CIFAR-10-C's `.npy` pair", classes=10),
    Shape("RobustBench, `mu` and `sigma` in file and network", "ResNet",
          "`state_dict` with argparse.Namespace", "`.npz`, test images alone", words=NORMALIZED),
    Shape("RobustBench, `mu` and `sigma` in the network's code alone", "ResNet",
          "without `mu` and `sigma`", "tar.gz of class folders", words=NORMALIZED),
    Shape("RobustBench, `normalize` and `model`", "normalized_by_name",
          "state_dict of DataParallel (`module.`)", "folder of `.npy` files", words=()),
    Shape("NormalizeByChannelMeanStd before the network", "normalizer_first",
          "`net`, `acc`, `epoch`", "`.pt` of two tensors", words=()),
    Shape("Lightning", "ResNet", "Lightning's checkpoint", "CSV of paths and labels"),
    Shape("timm, MobileNet", "MobileNet", "timm's training checkpoint",
          "folder of class folders", size=(3, 16, 16)),
    Shape("timm, by its name", "timm:test_resnet", "timm's training checkpoint",
          "`.npz`, test images alone", size=(3, 32, 32)),
    Shape("timm, vision transformer", "VisionTransformer", "safetensors",
          "`.npz`, test images alone", words=STATED),
    Shape("timm, ImageNet's 1,000 classes, ImageNet's mean", "MobileNet", "state_dict",
          "`.npz`, test images alone", classes=1000, size=(3, 16, 16),
          words=("--input_normalization=imagenet",)),
    Shape("Hugging Face, an object with logits", "HuggingFace", "safetensors",
          "parquet of the Hugging Face hub", words=(*NONE, "--network_args={num_labels: 3}")),
    Shape("several tasks, a dictionary with logits", "Dictionary", "`backbone.` prefix",
          "`.npz`, images in [0, 1], one-hot labels"),
    Shape("torch.compile", "ResNet", "`_orig_mod.` of torch.compile",
          "tar.xz of class folders"),
    Shape("torch.compile in DistributedDataParallel", "ResNet",
          "`module._orig_mod.` of compile in DDP", "folder of `.npy` files"),
    Shape("a running average beside the weights", "ResNet",
          "`model` and `ema_state_dict`", "folder of class folders",
          words=(*NONE, "--part=ema_state_dict")),
    Shape("stochastic weight averaging", "ResNet", "torch's AveragedModel",
          "`.pt` of two tensors"),
    Shape("operations counted before saving", "ResNet", "counts of thop in it",
          "zip of class folders"),
    Shape("old file", "ResNet", "state_dict, before torch 1.6",
          "`.npz`, test images alone"),
    Shape("old code", "ResNet", "no counts of batches", "CSV of paths and labels"),
    Shape("half precision", "ResNet", "half precision", "`.npz`, test images alone"),
    Shape("two classes, RGBA, palette and grey images of all sizes", "ResNet",
          "`model`, optimizer, epoch", "`val/` of RGBA, palette, grey, all sizes", classes=2,
          words=(*NONE, "--resize=8")),
    Shape("100 classes", "Wide", "safetensors, `model.` prefix",
          "`.npz`, test images alone", classes=100),
    Shape("200 classes, `.npy` pair", "ResNet", "`net`, `acc`, `epoch`",
          "CIFAR-10-C's `.npy` pair", classes=200),
    Shape("grey images", "ResNet", PARALLEL, "`.npz`, test images alone", **GREY,
          words=("--mean=0.1307", "--std=0.3081")),
    Shape("images that are not square, a perceptron", "Perceptron", "state_dict",
          "folder of class folders", size=(3, 8, 6)),
    Shape("ours, mean and deviation inside", "resnet18", "state_dict",
          "`.npz`, test images alone", words=("--width=2",)),
    Shape("ours, two classes, grey images", "resnet18",
          "`backbone.` prefix", "MNIST's idx files", classes=2, **GREY, words=("--width=2",)),
    Shape("a pickled network", "ResNet", "pickled module", "`.npz`, test images alone",
          refused="torch.load('weights.pt', weights_only=False)"),
    Shape("a download that gave a page", "ResNet", "web page saved as .pt",
          "`.npz`, test images alone", refused="is a web page, not weights"),
    Shape("two heads", "TwoHeads", "state_dict", "`.npz`, test images alone",
          refused="the network must return logits"),
    Shape("16-bit images", "ResNet", "state_dict", "16-bit images", **GREY,
          refused="has more than 8 bits per value; convert it to 8"),
]  # fmt: skip


def _value(shape: Shape, name: str) -> str:
    """Returns the value of an option of the import, "" without it."""
    return dict(word.removeprefix("--").split("=") for word in shape.words).get(name, "")


def build(shape: Shape) -> nn.Module:
    """Builds the network as its own code does, with weights and statistics as if trained."""
    torch.manual_seed(0)
    channels = shape.size[0]
    if shape.network == "resnet18":
        model: nn.Module = resnet18("bn", shape.classes, 2, in_channels=channels,
                                    mean=(0.4,) * channels, std=(0.3,) * channels)  # fmt: skip
    elif shape.network.startswith("timm:"):
        import timm

        name = shape.network.removeprefix("timm:")
        model = timm.create_model(name, num_classes=shape.classes, in_chans=channels)
    else:
        factory = getattr(foreign_networks, shape.network)
        offered = {"num_classes": shape.classes, "in_channels": channels}
        taken = signature(factory).parameters
        given = yaml.safe_load(_value(shape, "network_args") or "{}")
        model = factory(**{k: v for k, v in offered.items() if k in taken} | given)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean, -0.1, 0.1)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
        elif isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=2)
    return model.eval()


def make(shape: Shape, folder: Path) -> Made:
    """Writes the shape's files."""
    model, random = build(shape), np.random.default_rng(0)
    channels, height, width = shape.size
    parts = {}
    for part, count in (("train", 5), ("test", 4)):
        images = random.integers(0, 256, (count, height, width, channels), np.uint8)
        labels = random.integers(0, shape.classes, count)
        labels[: min(shape.classes, 3)] = np.arange(min(shape.classes, 3))  # each has its folder
        parts[part] = images.squeeze(3) if channels == 1 else images, labels
    (folder / "data").mkdir()
    path = DATA[shape.data](folder / "data", parts, [f"class{i}" for i in range(shape.classes)])
    WEIGHTS[shape.weights](model, folder / "weights.pt")
    own = shape.network in vars(foreign_networks)
    network = f"foreign_networks:{shape.network}" if own else shape.network
    return Made(network, folder / "weights.pt", path, _own_code(shape, model))


def _own_code(shape: Shape, model: nn.Module) -> Callable[[Tensor], Tensor]:
    """Returns what the user's own evaluation computes: mean and deviation, then the network."""
    if _value(shape, "part"):
        model = other(model)
    values = [_value(shape, "mean") or "0", _value(shape, "std") or "1"]
    if _value(shape, "input_normalization") == "imagenet":
        values = ["0.485,0.456,0.406", "0.229,0.224,0.225"]
    mean, std = (
        torch.tensor([float(v) for v in each.split(",")])[:, None, None] for each in values
    )

    @torch.no_grad()
    def logits(images: Tensor) -> Tensor:
        output = model((images - mean) / std)
        if isinstance(output, dict):
            return output["logits"]
        return output[0] if isinstance(output, tuple) else getattr(output, "logits", output)

    return logits


def document() -> str:
    """Returns the table of the documentation."""
    rows = []
    for shape in SHAPES:
        channels, height, width = shape.size
        kind = "grey" if channels == 1 else "RGB"
        data = f"{shape.data}; {shape.classes} classes, {height} x {width} {kind}"
        rows.append([shape.title, shape.weights, data, "refused" if shape.refused else "evaluated"])
    return tabulate(rows, ["network", "weights", "data", "outcome"], "github")


if __name__ == "__main__":
    page = Path(__file__).parents[2] / "docs" / "networks.md"
    begin, _, rest = page.read_text().partition(BEGIN)
    page.write_text(f"{begin}{BEGIN}\n{document()}\n{END}{rest.partition(END)[2]}")

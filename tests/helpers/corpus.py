"""A corpus of (network, weights file, data) as users bring them, in the layouts of public releases.

``SHAPES`` lists them; ``make`` writes the files of one into a folder.
"""

from collections.abc import Callable
from dataclasses import dataclass
from inspect import signature
from pathlib import Path
from typing import NamedTuple

import data_files
import foreign_networks
import numpy as np
import torch
import yaml
from PIL import Image
from safetensors.torch import save_file
from tabulate import tabulate
from torch import Tensor, nn
from weight_files import FILES, inner, other, prefixed

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


# ---- weights: what is written to a file, from the network


def _torch(key: str, **options: bool) -> Callable[[nn.Module, Path], None]:
    return lambda model, path: torch.save(FILES[key](inner(model), model), path, **options)


def _safetensors(prefix: str) -> Callable[[nn.Module, Path], None]:
    def write(model: nn.Module, path: Path) -> None:
        state = {name: value.contiguous() for name, value in model.state_dict().items()}
        save_file(prefixed(prefix, state), path, metadata={"format": "pt"})

    return write


def _text(text: str) -> Callable[[nn.Module, Path], None]:
    return lambda _, path: path.write_text(text) and None


def _without(*names: str) -> Callable[[nn.Module, Path], None]:
    """The state without constants that its code makes anew."""

    def write(model: nn.Module, path: Path) -> None:
        state = {k: v for k, v in model.state_dict().items() if k.rpartition(".")[2] not in names}
        torch.save(prefixed("module.", state), path)

    return write


WEIGHTS = {
    "state_dict": _torch("whole state"),
    "state_dict, before torch 1.6": _torch("whole state", _use_new_zipfile_serialization=False),
    "state_dict of DataParallel (`module.`)": _torch("DataParallel"),
    "`_orig_mod.` of torch.compile": _torch("torch.compile"),
    "`module._orig_mod.` of compile in DDP": _torch("compile in DDP"),
    "Lightning's checkpoint": _torch("Lightning"),
    "`model`, optimizer, epoch": _torch("optimizer beside it"),
    "`state_dict` with numpy scalars": _torch("numpy scores"),
    "`state_dict` with argparse.Namespace": _torch("argparse arguments"),
    "`net`, `acc`, `epoch`": _torch("net and acc"),
    "timm's training checkpoint": _torch("timm's training"),
    "`model` and `ema_state_dict`": _torch("running average beside it"),
    "torch's AveragedModel": _torch("torch's AveragedModel"),
    "counts of thop in it": _torch("operations counted by thop"),
    "half precision": _torch("half precision"),
    "no counts of batches": _torch("before counts of batches"),
    "`backbone.` prefix": _torch("backbone"),
    "safetensors": _safetensors(""),
    "safetensors, `model.` prefix": _safetensors("model."),
    "without `mu` and `sigma`": _without("mu", "sigma"),
    "pickled module": lambda model, path: torch.save(model, path),
    "web page saved as .pt": _text("<!DOCTYPE html><html>Virus scan warning</html>"),
}


# ---- data: files of test images and, where a format has them, training images


def _npz(folder, parts, names):
    arrays = {f"{kind}_test": values for kind, values in zip("xy", parts["test"], strict=True)}
    np.savez(folder / "set.npz", **arrays)
    return folder / "set.npz"


def _npz_with_training(folder, parts, names):
    arrays = {}
    for part, (x, y) in parts.items():
        arrays |= {f"{part}_images": x / 255, f"{part}_labels": np.eye(len(names))[y]}
    np.savez(folder / "set.npz", **arrays)
    return folder / "set.npz"


def _cifar10_c(folder, parts, names):
    folder = folder / "CIFAR-10-C"
    folder.mkdir()
    np.save(folder / "fog.npy", parts["test"][0])
    np.save(folder / "labels.npy", parts["test"][1])
    return folder / "fog.npy"


def _npy_folder(folder, parts, names):
    for part, (x, y) in parts.items():
        np.save(folder / f"x_{part}.npy", x)
        np.save(folder / f"y_{part}.npy", y)
    return folder


def _tensors(folder, parts, names):
    x, y = (torch.from_numpy(values) for values in parts["test"])
    torch.save((x.permute(0, 3, 1, 2).contiguous(), y), folder / "set.pt")
    return folder / "set.pt"


def _folder(folder, parts, names):
    return data_files.write_classes(folder / "set", parts, names)


def _val_of_all_kinds(folder, parts, names):
    """Only ``val/``: RGBA, palettes, grey and several sizes; a ``Thumbs.db``."""
    x, y = parts["test"]
    for i, image in enumerate(x):
        place = folder / "set" / "val" / names[y[i]]
        place.mkdir(parents=True, exist_ok=True)
        mode = ("RGB", "RGBA", "P", "L")[i % 4]
        size = (len(image[0]) + 3 * (i % 3), len(image) + i)
        Image.fromarray(image).resize(size).convert(mode).save(place / f"{i}.png")
    (place / "Thumbs.db").write_bytes(b"x")
    return folder / "set"


def _packed(mode, suffix):
    def write(folder, parts, names):
        return data_files.pack(_folder(folder, parts, names), folder / f"set{suffix}", mode)

    return write


def _sixteen_bits(folder, parts, names):
    for i, label in enumerate(parts["test"][1]):
        place = folder / "set" / "test" / names[label]
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((8, 8), 4000, np.uint16)).save(place / f"{i}.png")
    return folder / "set"


def _cifar10(write):
    return lambda folder, parts, names: write(folder, data_files.cifar10_batches(parts))


DATA = {
    "`.npz`, test images alone": _npz,
    "`.npz`, images in [0, 1], one-hot labels": _npz_with_training,
    "CIFAR-10-C's `.npy` pair": _cifar10_c,
    "folder of `.npy` files": _npy_folder,
    "`.pt` of two tensors": _tensors,
    "folder of class folders": _folder,
    "`val/` of RGBA, palette, grey, all sizes": _val_of_all_kinds,
    "zip of class folders": _packed("zip", ""),
    "tar.gz of class folders": _packed("w:gz", ".tar.gz"),
    "tar.xz of class folders": _packed("w:xz", ".tar.xz"),
    "CIFAR-10's python folder": _cifar10(data_files.cifar10_python),
    "CIFAR-10's binary folder": _cifar10(data_files.cifar10_binary),
    "MNIST's idx files": lambda folder, parts, names: data_files.write_idx(folder, parts),
    "CSV of paths and labels": data_files.write_csv,
    "parquet of the Hugging Face hub": data_files.write_parquet,
    "16-bit images": _sixteen_bits,
}

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
          refused="the network must give logits"),
    Shape("16-bit images", "ResNet", "state_dict", "16-bit images", **GREY,
          refused="has more than 8 bits a value; convert it to 8"),
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

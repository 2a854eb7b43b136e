"""Weights and data of the corpus, written in the layouts of public releases.

``WEIGHTS`` and ``DATA`` have a writer for each, by the documentation's words for it.
"""

from collections.abc import Callable
from pathlib import Path

import data_files
import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import nn
from weight_files import FILES, inner, prefixed

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

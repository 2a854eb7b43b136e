"""Bad input is refused in one sentence with the remedy, in Python and on the command line."""

import re
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from foreign_networks import ResNet, TwoHeads
from torch import nn

from robustnorm import cli, evaluate, resnet18
from robustnorm.exchange.loaders import load_released
from robustnorm.models import NETWORKS
from robustnorm.system.errors import Status, UserError

GENERATOR = torch.Generator().manual_seed(0)
IMAGES = torch.rand(4, 3, 8, 8, generator=GENERATOR)
LABELS = torch.tensor([0, 1, 2, 0])


class OutOfMemory(nn.Module):
    """Has no memory for any number of images."""

    def __init__(self, num_classes=3):
        super().__init__()
        self.fc = nn.Linear(3, num_classes)

    def forward(self, images):
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 TB")


def flat(num_classes=3):
    """Takes 8 x 8 pixels and no other number of them."""
    return nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, num_classes))


def meta(num_classes=3):
    with torch.device("meta"):
        return flat(num_classes)


MEMORY = "out of memory with one image at a time .*: free memory, or use a device with more"
VALUES = r"weights must have values, but 2 of its tensors are on the meta device .*assign=True"
# What is wrong, the arguments of evaluate, the message.
IN_PYTHON = {
    "a class in place of a network": ({"model": nn.Linear}, "needs a torch.nn.Module, got a type"),
    "weights on the meta device": ({"model": meta()}, VALUES),
    "two heads in a tuple": (
        {"model": TwoHeads(3)},
        "must return logits, .* got a tuple of torch.float32 of shape .*; wrap it in a module",
    ),
    "other number of classes": (
        {"model": flat(2)},
        "labels must be from 0 to 1, since the network has 2 classes, got 2",
    ),
    "label too large": ({"labels": LABELS + 1}, "from 0 to 2, .* got 3; subtract 1 if they"),
    "negative label": ({"labels": LABELS - 1}, "classes from 0, got -1 for image 0; leave"),
    "too few labels": ({"labels": LABELS[:3]}, r"int64 of shape \(4,\), got .*; give the class of"),
    "labels in a list": (
        {"labels": [0, 1, 2, 0]},
        "labels must be int64 .*got a list; call torch.as_t",
    ),
    "another size": (
        {"images": torch.rand(4, 3, 10, 10)},
        "fails on images of shape .*; give images with the channels, height and width",
    ),
    "another number of channels": (
        {"images": torch.rand(4, 1, 8, 8)},
        "fails on images of shape .*; give images with the channels",
    ),
    "another number of channels, our network": (
        {"model": resnet18("bn", 3, 2), "images": torch.rand(4, 1, 8, 8)},
        "must have the network's 3 channels, got 1 .*; give images with the channels",
    ),
    "channels last": (
        {"model": ResNet(3), "images": torch.rand(4, 8, 8, 3)},
        r"these look like \(N, H, W, C\): give \(N, C, H, W\), images.permute\(0, 3, 1, 2\)",
    ),
    "images from 0 to 255": ({"images": IMAGES * 255}, r"must lie in \[0, 1\], got values from"),
    "images in numpy": ({"images": IMAGES.numpy()}, "got a ndarray; call torch.as_tensor"),
    "not enough memory": ({"model": OutOfMemory()}, MEMORY),
}


@pytest.mark.parametrize("wrong", IN_PYTHON)
def test_evaluate_refuses_in_one_sentence(wrong):
    given, message = IN_PYTHON[wrong]
    arguments = {"model": flat(), "images": IMAGES, "labels": LABELS} | given
    if isinstance(arguments["model"], nn.Module):
        arguments["model"].eval()
    with pytest.raises(UserError, match=message) as raised:
        evaluate(**arguments, steps=(2,))
    assert len(str(raised.value).splitlines()) == 1


def renamed():
    """Weights of a ResNet whose author calls its layers otherwise."""
    words = {"conv1": "first", "bn1": "norm", "linear": "head"}
    state = ResNet(3).state_dict()
    return {re.sub("|".join(words), lambda m: words[m[0]], k): v for k, v in state.items()}


NEAREST = (
    "alike: bn1.bias here and .*norm.bias there, bn1.num_batches_tracked here and "
    ".*num_batches_tracked there, bn1.running_mean here and .*running_mean there, "
    "bn1.running_var here and .*running_var there, bn1.weight here and .*weight there"
)


def test_keys_that_do_not_match_are_refused_with_the_nearest_five():
    with pytest.raises(UserError, match=NEAREST) as raised:
        load_released(ResNet(3), renamed(), "plain")
    assert len(str(raised.value).splitlines()) == 1
    assert "use other weights" in str(raised.value)


def saved(content):
    return partial(torch.save, content)


def npz(images=IMAGES, labels=LABELS):
    pixels = (images * 255).to(torch.uint8).numpy()
    return lambda path: np.savez(path, x_test=pixels, y_test=labels.numpy())


# What is wrong: network, what writes the weights, what writes the data, message, more options.
FLAT = saved(flat().state_dict())
ON_THE_COMMAND_LINE = {
    "no such factory": (
        "foreign_networks:ResNett", FLAT, npz(), "has no 'ResNett'; did you mean 'ResNet'",
    ),
    "factory that fails": (
        "foreign_networks:HuggingFace", FLAT, npz(), "missing .*'num_labels'.* --network_args",
    ),
    "no norm to replace": (
        "flat", FLAT, npz(), "cannot take the norm 'auxbn': .* no batch norm", "--norm=auxbn",
    ),
    "unknown network": ("flatt", FLAT, npz(), "unknown network 'flatt'; did you mean 'flat'"),
    "weights on the meta device": ("flat", saved(meta().state_dict()), npz(), "which have no val"),
    "network on the meta device": (
        "meta", FLAT, npz(), "weights on the meta device, .*; build it without torch.device",
    ),
    "two heads in a tuple": (
        "TwoHeads", saved(TwoHeads(3).state_dict()), npz(), "got a tuple of .*; wrap it in",
    ),
    "keys that do not match": ("ResNet", saved(renamed()), npz(), NEAREST),
    "fewer classes": (
        "flat", saved(flat(2).state_dict()), npz(),
        "holds a network with 2 classes, but set has 3 .*: choose data with the same classes",
    ),
    "negative label": (
        "flat", FLAT, npz(labels=LABELS - 1), "label -1 of test image 0 is not in .*; correct",
    ),
    "label far too large": (
        "flat", FLAT, npz(labels=LABELS + 10**6), "labels must be below 100,000",
    ),
    "another size": (
        "flat", FLAT, npz(torch.rand(4, 3, 10, 10)), "; give images with the channels, height and",
    ),
    "another number of channels": (
        "flat", FLAT, npz(torch.rand(4, 1, 8, 8)), "; give images with the channels, height and",
    ),
    "not enough memory": (
        "OutOfMemory", saved(OutOfMemory().state_dict()), npz(), "out of memory .*: free memory",
    ),
}  # fmt: skip


@pytest.mark.parametrize("wrong", ON_THE_COMMAND_LINE)
def test_commands_refuse_in_one_sentence(wrong, tmp_path, monkeypatch, capsys):
    for factory in (flat, meta, ResNet, TwoHeads, OutOfMemory):
        monkeypatch.setitem(NETWORKS, factory.__name__, factory)
    monkeypatch.chdir(tmp_path)
    network, write_weights, write_data, message, *more = ON_THE_COMMAND_LINE[wrong]
    write_weights("w.pt")
    write_data(Path("set.npz"))
    words = ["--weights=w.pt", "--data=set.npz", f"--network={network}", *more]
    words += ["--input_normalization=none", "--device=cpu", "--checks=none"]
    status = cli.main(["eval", *words])
    assert status in (Status.USAGE, Status.REFUSED, Status.MEMORY)
    sentences = [s for s in capsys.readouterr().err.splitlines() if s.startswith("robustnorm: ")]
    assert len(sentences) == 1
    assert re.search(message, sentences[0]), sentences[0]

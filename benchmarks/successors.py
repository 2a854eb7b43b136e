"""The attack worst beside AutoAttack's successors A3 and PMA, at equal passes, on trained runs.

    python -m benchmarks.successors --a3 FILE --pma FILE [--limit 200] RUN:BRANCH ...

FILE is a copy of the authors' own code, which is not part of this project:
`Adaptive_Auto_Attack_main.py` (Liu et al., CVPR 2022, arXiv:2203.05154) and `PMA.py` (Xie et al.,
2024, arXiv:2411.15210). Both are run as they are, on the CPU: A3 on the test images as PNG files,
with its settings for images of one channel, PMA with several numbers of steps. RUN is the folder of
a run with 8-bit test images of one channel, BRANCH one of its branches.

Passes are images passed forward and backward, counted at the network. A3 takes thousands of them
per image; its robust accuracy is printed at the number of passes that worst takes, and after the
first restart beyond ``--times`` that number.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import random
import re
import sys
import tempfile
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from tabulate import tabulate
from torch import Tensor

from robustnorm.attacks import worst_case
from robustnorm.attacks.passes import Counted
from robustnorm.data.batches import to_float
from robustnorm.data.dataset import subset
from robustnorm.evaluation.chunks import CHUNK
from robustnorm.evaluation.search import Branch, Search, branches
from robustnorm.runs import Run
from robustnorm.runs.described import load_data

# What has to change in A3's code: the GPU, names that numpy removed, worker processes.
_ON_CPU = {"'cuda'": "'cpu'", '"cuda"': '"cpu"', "np.bool)": "bool)", "np.int)": "int)"}
_ON_CPU |= {"num_workers=8": "num_workers=0", "pin_memory=True": "pin_memory=False"}
_STATE = re.compile(r"robust acc: (\S+) used_bp_num")
_PMA_STEPS = (25, 50, 100)


class _EnoughError(Exception):
    """A3 has taken enough passes."""


def a3(
    file: Path, model: Counted, images: Tensor, labels: Tensor, epsilon: float, most: float
) -> list[Any]:
    """Returns (passes, robust accuracy) after each restart of A3, to the first above ``most``."""
    source = file.read_text()
    for old, new in _ON_CPU.items():
        source = source.replace(old, new)
    states: list[Any] = []

    class Watched(io.StringIO):
        """Notes the passes whenever A3 prints its robust accuracy."""

        def write(self, text: str) -> int:
            if found := _STATE.search(text):
                states.append((sum(model.passes), float(found[1])))
                if states[-1][0] > most:
                    raise _EnoughError
            return len(text)

    with tempfile.TemporaryDirectory() as name, _without_torchvision():
        for number, (image, label) in enumerate(zip(images, labels.tolist(), strict=True)):
            path = Path(name, "data", "mnist_test", str(label), f"{number:05d}.png")
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray((image[0] * 255).round().to(torch.uint8).numpy()).save(path)
        module: dict[str, Any] = {"__name__": "a3"}
        with contextlib.chdir(name), contextlib.redirect_stdout(Watched()):
            exec(compile(source, str(file), "exec"), module)
            with contextlib.suppress(_EnoughError):
                module["Adaptive_Auto_white_box_attack"](
                    model, torch.device("cpu"), epsilon, True, len(images), 100, "network", "mnist"
                )
    return states


@contextlib.contextmanager
def _without_torchvision() -> Iterator[None]:
    """Provides the two transforms of torchvision that A3's code uses."""

    def to_tensor() -> Any:
        return lambda image: torch.from_numpy(np.asarray(image).copy())[None].float() / 255

    def compose(parts: list[Any]) -> Any:
        (only,) = parts
        return only

    vision: Any = types.ModuleType("torchvision")
    transforms: Any = types.ModuleType("torchvision.transforms")
    transforms.ToTensor, transforms.Compose = to_tensor, compose
    datasets = types.ModuleType("torchvision.datasets")
    vision.transforms, vision.datasets = transforms, datasets
    made = {
        "torchvision": vision,
        "torchvision.transforms": transforms,
        "torchvision.datasets": datasets,
    }
    before = {name: sys.modules.get(name) for name in made}
    gpu = os.environ.get("CUDA_VISIBLE_DEVICES")
    sys.modules.update(made)
    try:
        yield
    finally:
        for name, module in before.items():
            if module is None:
                del sys.modules[name]
            else:
                sys.modules[name] = module
        if gpu is None:
            os.environ.pop("CUDA_VISIBLE_DEVICES", None)
        else:
            os.environ["CUDA_VISIBLE_DEVICES"] = gpu


def pma(
    file: Path, model: Counted, images: Tensor, labels: Tensor, epsilon: float, steps: int
) -> float:
    """Returns the robust accuracy under PMA with that many steps, from two starts each."""
    module: dict[str, Any] = {"__name__": "pma"}
    exec(compile(file.read_text(), str(file), "exec"), module)
    with torch.no_grad():
        classes = model.model(images[:1]).shape[1]
    attack = module["MDAttack"](
        model, epsilon=epsilon, num_steps=steps, num_classes=classes, loss_fn="pm"
    )
    adv_images, _ = attack.perturb(images, labels)
    return _left(model.model, adv_images, labels)


@torch.no_grad()
def _left(model: Any, adv_images: Tensor, labels: Tensor) -> float:
    found: float = (model(adv_images).argmax(1) == labels).double().mean().item()
    return found


def worst(model: Counted, images: Tensor, labels: Tensor, epsilon: float) -> float:
    """Returns the robust accuracy under worst, in chunks like those of an evaluation."""
    parts = zip(torch.split(images, CHUNK), torch.split(labels, CHUNK), strict=True)
    adv_images = torch.cat([worst_case(model, *part, epsilon=epsilon) for part in parts])
    return _left(model.model, adv_images, labels)


def branch_rows(folder: str, name: str, options: argparse.Namespace) -> Iterator[list[Any]]:
    """Yields the rows of one branch."""
    run = Run.open(Path(folder))
    dataset, search = load_data(run.config), Search.of(run.config)
    _, test = subset(dataset.test, options.limit)
    images, labels = to_float(test.images), test.labels
    branch = next(b for b in branches(run.network(torch.device("cpu"))) if b.name == name)
    epsilon, n = search.for_branch(name).epsilon, len(labels)
    label = f"{run.folder.name} ({name}), n = {n}"

    def counted(branch: Branch = branch) -> Counted:
        branch.standin(images[:CHUNK])  # proves the copy
        for seed in (random.seed, np.random.seed, torch.manual_seed):
            seed(0)
        return Counted(branch.standin)

    model = counted()
    left = worst(model, images, labels, epsilon)
    most = sum(model.passes)
    yield [label, "worst", f"{most / n:.0f}", f"{100 * left:.1f}"]
    if options.a3:
        states = a3(options.a3, counted(), images, labels, epsilon, options.times * most)
        equal = next((state for state in states if state[0] >= most), states[-1])
        for title, (passes, accuracy) in (("A3", equal), ("A3, later", states[-1])):
            yield [label, title, f"{passes / n:.0f}", f"{100 * accuracy:.1f}"]
    for steps in _PMA_STEPS if options.pma else ():
        model = counted()
        accuracy = pma(options.pma, model, images, labels, epsilon, steps)
        title = f"PMA, {steps} steps"
        yield [label, title, f"{sum(model.passes) / n:.0f}", f"{100 * accuracy:.1f}"]


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--a3", type=Path, help="Adaptive_Auto_Attack_main.py")
    parser.add_argument("--pma", type=Path, help="PMA.py")
    parser.add_argument("--limit", type=int, default=200, help="test images")
    parser.add_argument("--times", type=float, default=3, help="of worst's passes, for A3")
    parser.add_argument("runs", nargs="+", metavar="RUN:BRANCH")
    options = parser.parse_args()
    rows = []
    for given in options.runs:
        folder, _, branch = given.rpartition(":")
        rows += [*branch_rows(folder, branch, options)]
    header = ["Run", "Attack", "Passes per image", "RA %"]
    print(tabulate(rows, header, tablefmt="github", disable_numparse=True))


if __name__ == "__main__":
    main()

"""Images that stay encoded on disk: images per second and memory, with few images and with many.

    python -m benchmarks.stored_images [--images 20000] [--folder FOLDER]

Makes JPEG files of 224 x 224 pixels in a folder, then reads them in separate processes: the first
check of all files, training batches without a network, and an epoch of AdvProp on a few hundred of
them with an evaluation. Memory is the peak of the process, and that of its largest worker.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from tabulate import tabulate
from tqdm import tqdm

from benchmarks.workload import machine, peak_mebibytes
from robustnorm.data import load_dataset
from robustnorm.data.batches import epoch_batches
from robustnorm.data.dataset import Augmentation
from robustnorm.settings.config import Config
from robustnorm.work.evaluate import evaluate_records
from robustnorm.work.train import train_run

SIDE, CLASSES, TEST = 224, 10, 200
SMALL = 64  # side to which images are scaled for the network, so that this takes a minute
BATCH, BATCHES = 64, 30
TRAINED = 256


def write_images(folder: Path, images: int) -> None:
    """Writes smooth random pictures, one tenth of them test images."""
    random = np.random.default_rng(0)
    for part, count in (("train", images - TEST), ("test", TEST)):
        for number in tqdm(range(count), f"writing {part}", unit="img", disable=None):
            path = folder / part / f"class{number % CLASSES}" / f"{number:06d}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            coarse = Image.fromarray(random.integers(0, 256, (56, 56, 3), np.uint8))
            coarse.resize((SIDE, SIDE), Image.Resampling.BICUBIC).save(path, quality=90)


def look(folder: Path, workers: int) -> int:
    """Reads every file once, as the first command does; returns the number of images."""
    dataset = load_dataset(str(folder), root=folder.parent / "cache", stream=True, workers=workers)
    return len(dataset.train) + len(dataset.test)


def load(folder: Path, workers: int) -> int:
    """Reads batches of training; returns the number of images."""
    dataset = load_dataset(
        str(folder), root=folder.parent / "cache", resize=SIDE, stream=True, workers=workers
    )
    augmentation = Augmentation(flip=True, crop_area=0.25)
    batches = epoch_batches(
        dataset.train, batch_size=BATCH, seed=0, epoch=0, augmentation=augmentation
    )
    for _, batch in zip(range(BATCHES), batches, strict=False):
        assert batch.images.shape == (BATCH, 3, SIDE, SIDE)
    return BATCH * BATCHES


def train(folder: Path, workers: int) -> int:
    """Trains a narrow network and evaluates it; returns the number of images trained on."""
    with tempfile.TemporaryDirectory(dir=folder.parent) as output:
        config = Config(
            data=str(folder), data_root=str(folder.parent / "cache"), resize=SMALL,
            stream=True, data_workers=workers, crop_area=0.25, norm="auxbn",
            name="stored", output=output, reports=output, device="cpu",
            epochs=1, train_limit=TRAINED, validation=16, test_limit=20,
            batch_size=32, width=4, train_steps=1, validation_steps=1,
            # A backward pass of torch 2.13 on the CPU corrupts memory for few channels with this
            # many pixels in channels-last layout (1 x 1 convolution, stride 2).
            checks="none", worst=False, channels_last=False,
        )  # fmt: skip
        train_run(config)
        [record] = evaluate_records(config)
        assert record.n == 20
    return TRAINED


PARTS: dict[str, Callable[[Path, int], int]] = {"look": look, "load": load, "train": train}


def measure(part: str, folder: Path, workers: int) -> dict[str, float]:
    """Measures in a separate process; returns what it printed, see ``main``."""
    command = [sys.executable, "-m", "benchmarks.stored_images", "--part", part]
    done = subprocess.run(
        [*command, "--folder", str(folder), "--workers", str(workers)],
        capture_output=True,
        check=True,
        text=True,
    )
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def main() -> None:
    """Prints the table, or with ``--part`` the measurements of this process."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=20_000)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--part", choices=PARTS)
    parser.add_argument("--workers", type=int, default=0)
    given = parser.parse_args()
    if given.part:
        torch.set_num_threads(1)
        start = time.perf_counter()
        images = PARTS[given.part](given.folder, given.workers)
        seconds = time.perf_counter() - start
        memory = peak_mebibytes()
        beside = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss // 1024
        print(json.dumps({"rate": images / seconds, "memory": memory, "beside": beside}))
        return
    with tempfile.TemporaryDirectory(dir=given.folder) as folder:
        rows = []
        for count in (given.images // 10, given.images):
            made = Path(folder) / f"{count}" / "images"
            write_images(made, count)
            for part, workers in (("look", 0), ("load", 0), ("load", 2), ("train", 2)):
                found = measure(part, made, workers)
                names = {"look": "first look", "load": "batches", "train": "AdvProp, evaluation"}
                values = (f"{found[name]:,.0f}" for name in ("rate", "memory", "beside"))
                rows.append((f"{count:,}", names[part], workers, *values))
    headers = ("JPEG files", "what", "workers", "images/s", "MiB", "MiB of a worker")
    print(f"## Images on disk\n\n{machine()}\n")
    print(tabulate(rows, headers=headers, tablefmt="github", disable_numparse=True))


if __name__ == "__main__":
    main()

"""Checkpoints with a changed byte or cut short: whether it is noticed and the previous one used.

python -m benchmarks.soak.damage [--flips 1000] [--truncations 20]
"""

from __future__ import annotations

import argparse
import logging
import random
from collections import Counter
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

from tabulate import tabulate

from benchmarks.soak.killing import TINY
from benchmarks.workload import machine
from robustnorm.runs.checkpoint import CheckpointError, load_checkpoint
from robustnorm.runs.run import run_folder
from robustnorm.work.train import train_run


def train_tiny(output: Path) -> Path:
    """Trains two epochs, saving after each; returns the run's folder."""
    config = replace(TINY, norm="saauxbn", save_minutes=10.0, output=str(output))
    train_run(config)
    return run_folder(config)


def damage(folder: Path, flips: int, truncations: int, seed: int = 0) -> Counter[tuple[str, str]]:
    """Damages "last" and "best" of a run, one file at a time, and restores it.

    Args:
        folder: A run of two epochs.
        flips: Number of changed bytes, in manifests and tensors.
        truncations: Number of truncated files.
        seed: Seed of the choices.

    Returns:
        Counts by (damage and file, outcome).
    """
    dice = random.Random(seed)
    found: Counter[tuple[str, str]] = Counter()
    for number in range(flips + truncations):
        kind = "flipped byte" if number < flips else "truncation"
        tag = ("last", "best")[number % 2]
        manifest = folder / f"{tag}.json"
        tensors = folder / load_checkpoint(folder, tag).manifest["file"]
        path = (manifest, tensors)[number // 2 % 2]
        whole = path.read_bytes()
        place = dice.randrange(len(whole))
        changed = bytes([whole[place] ^ dice.randrange(1, 256)]) + whole[place + 1 :]
        path.write_bytes(whole[:place] + (changed if number < flips else b""))
        found[f"{kind}, {tag}{path.suffix}", _outcome(folder, tag)] += 1
        path.write_bytes(whole)
    return found


def _outcome(folder: Path, tag: str) -> str:
    try:
        manifest = load_checkpoint(folder, tag).manifest
    except CheckpointError:
        return "refused"
    return "the one before is used" if tag == "last" and manifest["epoch"] == 1 else "not noticed"


def main() -> None:
    """Damages checkpoints and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--flips", type=int, default=1000)
    parser.add_argument("--truncations", type=int, default=20)
    options = parser.parse_args()
    logging.getLogger("robustnorm").setLevel(logging.ERROR)
    with TemporaryDirectory() as folder:
        found = damage(train_tiny(Path(folder)), options.flips, options.truncations)
    missed = sum(count for (_, outcome), count in found.items() if outcome == "not noticed")
    total = options.flips + options.truncations
    print(
        f"## Damaged checkpoints\n\nOne byte changed at random, or the file cut short; {machine()}."
        f"\n\n{total - missed} of {total} were noticed.\n"
    )
    rows = [(*key, count) for key, count in sorted(found.items())]
    print(tabulate(rows, headers=["damage", "outcome", "times"], tablefmt="pipe"))


if __name__ == "__main__":
    main()

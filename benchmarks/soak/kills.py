"""Training runs killed with SIGKILL at random moments, during saving too.

    python -m benchmarks.soak.kills [--kills 200] [--kills_per_norm 10]

First, whether the last checkpoint can be read after each kill and how many steps are lost; then,
whether runs that were killed end as the uninterrupted ones do, in every bit.
"""

from __future__ import annotations

import argparse
import random
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

from tabulate import tabulate

from benchmarks.soak.killing import (
    TINY,
    differences,
    half_written,
    steps_saved,
    train_and_kill,
)
from benchmarks.workload import machine
from robustnorm.campaign import PAPER_NORMS
from robustnorm.config import Config
from robustnorm.runs import run_folder
from robustnorm.training.checkpoint import CheckpointError, load_checkpoint

_LONGEST = 0.3  # seconds from the first step to the kill: some steps and their savings


def kill_often(kills: int, output: Path) -> dict[str, int]:
    """Kills a run again and again; returns what was lost."""
    dice = random.Random(0)
    config = replace(TINY, norm="saauxbn", epochs=10_000, output=str(output))
    counts = {"unreadable": 0, "lost": 0, "while writing": 0}
    for _ in range(kills):
        before = steps_saved(config)
        taken, _ = train_and_kill(config, dice.uniform(0, _LONGEST))
        counts["while writing"] += half_written(config)
        newest = run_folder(config) / "last.json"
        try:
            # The newest itself: not the one before it.
            if newest.exists():
                manifest = load_checkpoint(run_folder(config), "last").manifest
                counts["unreadable"] += manifest["sha256"] not in newest.read_text()
        except CheckpointError:
            counts["unreadable"] += 1
            break
        counts["lost"] = max(counts["lost"], before + taken - steps_saved(config))
    return counts


def kill_and_compare(norm: str, kills: int, output: Path, seed: int = 0) -> tuple[int, list[str]]:
    """Kills a run some times, lets it end, and compares it with an uninterrupted one.

    Returns:
        The kills that came before its end, and in what the two differ.
    """
    dice = random.Random(seed)
    # Some steps a kill, so that the last one comes before the end.
    epochs = max(2, kills)
    whole, killed = (
        replace(TINY, norm=norm, epochs=epochs, save_minutes=minutes, output=str(output / name))
        for name, minutes in (("whole", 10.0), ("killed", 0.0))
    )
    finish(whole)
    survived = 0
    for _ in range(kills):
        _, ended = train_and_kill(killed, dice.uniform(0, _LONGEST / 2))
        survived += not ended
    finish(killed)
    return survived, differences(whole, killed)


def finish(config: Config) -> None:
    """Trains to the end, in a process like the killed ones."""
    train_and_kill(config, 600)


def main() -> None:
    """Prints both tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--kills_per_norm", type=int, default=10)
    options = parser.parse_args()
    with TemporaryDirectory() as folder:
        counts = kill_often(options.kills, Path(folder) / "often")
        rows = []
        for norm in PAPER_NORMS:
            survived, found = kill_and_compare(norm, options.kills_per_norm, Path(folder) / norm)
            rows.append((norm, survived, ", ".join(found) or "none"))
    print(
        f"## Kills\n\nSIGKILL at random moments of a run that saves after each step; {machine()}.\n"
        f"\n{options.kills} kills, {counts['while writing']} of them while a file was being "
        f"written: {counts['unreadable']} times the newest checkpoint could not be read, at most "
        f"{counts['lost']} step was lost, which is one interval between two savings.\n\n"
        'Runs killed and continued, against uninterrupted ones: tensors of "last" and "best", '
        "random states, lines of metrics but for times.\n"
    )
    print(tabulate(rows, headers=["norm", "kills", "different"], tablefmt="pipe"))


if __name__ == "__main__":
    main()

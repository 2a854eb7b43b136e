"""Training runs killed with SIGKILL at random moments, including while saving.

    python -m benchmarks.soak.kills [--kills 200] [--kills_per_norm 10]

It measures first whether the last checkpoint can be read after each kill and how many steps are
lost, then whether killed runs end bit for bit like uninterrupted ones.
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

from benchmarks.soak.killing import TINY, finish, run_differences, steps_saved, train_and_kill
from benchmarks.workload import machine
from robustnorm.records.digests import digest_of_verdicts
from robustnorm.runs.checkpoint import CheckpointError, load_checkpoint
from robustnorm.settings.plan import PAPER_NORMS
from robustnorm.work.evaluate import evaluate_records

# Largest delay of a kill after a step, in seconds; a save takes a few hundredths.
_LONGEST = 0.1


def kill_often(kills: int, output: Path) -> Counter[str]:
    """Kills a run repeatedly; returns what was lost."""
    dice = random.Random(0)
    config = replace(TINY, norm="saauxbn", epochs=10_000, output=str(output))
    counts = Counter(unreadable=0, lost=0, saving=0)
    for _ in range(kills):
        before = steps_saved(config)
        taken, _ = train_and_kill(config, dice.randint(1, 4), dice.uniform(0, _LONGEST))
        newest = config.folder / "last.json"
        try:
            # The newest itself, not the previous one.
            if newest.exists():
                manifest = load_checkpoint(config.folder, "last").manifest
                counts["unreadable"] += manifest["sha256"] not in newest.read_text()
        except CheckpointError:
            counts["unreadable"] += 1
            break
        lost = before + taken - steps_saved(config)
        counts["lost"] = max(counts["lost"], lost)
        counts["saving"] += lost > 0
    return counts


def kill_and_compare(norm: str, kills: int, output: Path, seed: int = 0) -> tuple[int, list[str]]:
    """Kills a run several times, finishes it, and compares it with an uninterrupted one.

    Returns:
        The number of kills before its end, and how the two differ.
    """
    dice = random.Random(seed)
    epochs = max(2, kills)  # of four steps each, so that the last kill comes before the end
    whole, killed = (
        replace(TINY, norm=norm, epochs=epochs, save_minutes=minutes, output=str(output / name))
        for name, minutes in (("whole", 10.0), ("killed", 0.0))
    )
    finish(whole)
    survived = 0
    for _ in range(kills):
        _, ended = train_and_kill(killed, dice.randint(1, 3), dice.uniform(0, _LONGEST))
        survived += not ended
    finish(killed)
    return survived, run_differences(whole, killed)


def kill_evaluations(kills: int, output: Path, seed: int = 0) -> tuple[int, int, int]:
    """Kills evaluations at random moments and continues each until it has its record.

    Returns:
        The numbers of kills, of evaluations, and of evaluations that found other verdicts than an
        uninterrupted one or left a journal behind.
    """
    dice, killed, evaluations, different = random.Random(seed), 0, 0, 0
    config = replace(TINY, norm="auxbn", output=str(output), test_limit=500, checks="none")
    finish(config)
    whole = digest_of_verdicts(evaluate_records(replace(config, reports=str(output / "whole")))[0])
    while killed < kills:
        here = replace(config, reports=str(output / f"reports{evaluations}"))
        ended = False
        while not ended:
            parts, delay = dice.randint(0, 3), dice.uniform(0, 2 * _LONGEST)
            _, ended = train_and_kill(here, parts, delay, evaluates=True)
            killed += not ended
        [record] = evaluate_records(here)
        left = list(Path(here.reports).rglob("*.journal"))
        different += digest_of_verdicts(record) != whole or bool(left)
        evaluations += 1
    return killed, evaluations, different


def main() -> None:
    """Prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--kills_per_norm", type=int, default=10)
    parser.add_argument("--kills_of_evaluations", type=int, default=60)
    options = parser.parse_args()
    logging.getLogger("robustnorm").setLevel(logging.ERROR)
    with TemporaryDirectory() as folder:
        counts = kill_often(options.kills, Path(folder) / "often")
        rows = []
        for norm in PAPER_NORMS:
            survived, found = kill_and_compare(norm, options.kills_per_norm, Path(folder) / norm)
            rows.append((norm, survived, ", ".join(found) or "none"))
        evaluated = kill_evaluations(options.kills_of_evaluations, Path(folder) / "evaluations")
    print(
        f"## Kills\n\nSIGKILL at random moments of a run that saves after each step; {machine()}.\n"
        f"\n{options.kills} kills, {counts['saving']} of them before the last step was saved: "
        f"{counts['unreadable']} times the newest checkpoint could not be read; at most "
        f"{counts['lost']} step was lost, the interval between two saves.\n\n"
        'Runs killed and continued, compared with uninterrupted ones: tensors of "last" and '
        '"best", random states, lines of metrics except for times.\n'
    )
    print(tabulate(rows, headers=["norm", "kills", "different"], tablefmt="pipe"))
    print(
        f"\n{evaluated[0]} kills of {evaluated[1]} evaluations, each continued until it had its "
        f"record: {evaluated[2]} of them found other verdicts than an uninterrupted one, or left a "
        "journal behind."
    )


if __name__ == "__main__":
    main()

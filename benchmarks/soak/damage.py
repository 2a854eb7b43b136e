"""Damages every kind of file that is written and read again: each damage must be noticed.

    python -m benchmarks.soak.damage [--damages 10000] [--seed 0]

An evaluation whose journal or kept images are damaged before its end must find the same verdicts.
"""

from __future__ import annotations

import argparse
import logging
import random
import shutil
from collections import Counter
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from tabulate import tabulate

from benchmarks.soak.damages import DAMAGES, damaged
from benchmarks.soak.written import Entries, Written, config_in, write_all
from benchmarks.workload import machine
from robustnorm.evaluation.chunks import CHUNK
from robustnorm.evaluation.evaluate import evaluate
from robustnorm.evaluation.search import Search
from robustnorm.records.bits import pack_bits
from robustnorm.records.images import hashes
from robustnorm.records.record import Verdict
from robustnorm.runs import Run
from robustnorm.runs.described import load_data
from robustnorm.settings.config import Config
from robustnorm.system.errors import UserError
from robustnorm.system.stopping import ShouldStop, Stopped, never

log = logging.getLogger("robustnorm")

SAME, LOST, BEFORE = "nothing is lost", "made or done again", "the one before is used"
REFUSED = "refused by name"
NUMBER, FAULT, NAMELESS = "another number", "a traceback", "refused without a name"
OUTCOMES = (REFUSED, LOST, BEFORE, SAME)
FAULTS = (NUMBER, FAULT, NAMELESS)


def damage(
    files: dict[str, Written], damages: int, seed: int = 0
) -> tuple[Counter[tuple[str, str]], list[str]]:
    """Damages the files in turn, one at a time, and restores each.

    Args:
        files: From ``write_all``.
        damages: Number of damages.
        seed: Seed of the choices.

    Returns:
        Counts by (kind of file, outcome), and descriptions of faults.
    """
    dice = random.Random(seed)
    found: Counter[tuple[str, str]] = Counter()
    faults = []
    whole = {name: (file.path.read_bytes(), file.read()) for name, file in files.items()}
    kept = {name: _beside(file.path) for name, file in files.items()}
    names, kinds = list(files), list(DAMAGES)
    for number in range(damages):
        name, kind = names[number % len(names)], kinds[number // len(names) % len(kinds)]
        file, (data, expected) = files[name], whole[name]
        while (changed := damaged(data, kind, dice)) == data and kind not in _MAY_BE_NOTHING:
            pass
        file.path.write_bytes(changed)
        outcome, why = _outcome(file, expected)
        found[name, outcome] += 1
        if outcome in FAULTS:
            faults.append(f"{name}, {kind}, damage {number}: {outcome} {why}")
        for path, content in kept[name].items():  # also files that were made again
            if not path.is_file() or path.read_bytes() != content:
                path.write_bytes(content)
    return found, faults


_MAY_BE_NOTHING = ("swapped lines", "copied block", "zero block", "deleted line", "duplicated line")


def _beside(path: Path) -> dict[Path, bytes]:
    return {each: each.read_bytes() for each in path.parent.iterdir() if each.is_file()}


def _outcome(file: Written, expected: Entries) -> tuple[str, str]:
    try:
        entries = file.read()
    except UserError as error:
        named = file.path.name in str(error) or file.path.parent.name in str(error)
        return (REFUSED if named else NAMELESS), str(error)
    except Exception as error:
        return FAULT, repr(error)
    if entries == expected:
        return SAME, ""
    if entries in file.allowed:
        return BEFORE, ""
    return (LOST if entries.items() <= expected.items() else NUMBER), ""


def finish_damaged(config: Config, times: int, seed: int = 0) -> tuple[int, list[str]]:
    """Damages the journal or the kept images of evaluations stopped half-way, then finishes them.

    Args:
        config: Settings of a trained run.
        times: Number of evaluations.
        seed: Seed of the choices.

    Returns:
        How many evaluations named the damaged file and evaluated its part again, and descriptions
        of those that found other verdicts or kept other images than one without damage.
    """
    dice, others, again = random.Random(seed), list[str](), 0
    model, data = Run.open(config.folder, "best").network(), load_data(config).test
    count = 2 * CHUNK + 10

    def finish(folder: Path, should_stop: ShouldStop = never) -> Any:
        found = evaluate(
            model, data.images[:count], data.labels[:count], Search(8 / 255, 2 / 255, (1,)),
            journal=folder / "journal", keep=folder / "images", should_stop=should_stop,
        )  # fmt: skip
        return [[*verdict[:4], pack_bits(verdict[4])] for verdict in map(_fields, found)]

    place = Path(config.reports)
    expected, images = finish(place / "whole"), hashes(place / "whole" / "images")
    for number in range(times):
        folder = place / str(number)
        with suppress(Stopped):
            finish(folder, _stops_when_asked_a_third_time())
        files = [folder / "journal", *sorted((folder / "images").iterdir())]
        path, kind = dice.choice(files), dice.choice(list(DAMAGES))
        path.write_bytes(damaged(path.read_bytes(), kind, dice))
        with _CapturedLog() as captured:
            found = finish(folder)
        again += str(folder) in captured.text
        if found != expected or hashes(folder / "images") != images:
            others.append(f"{path.name}, {kind}, evaluation {number}: other verdicts or images")
        shutil.rmtree(folder)
    return again, others


def _fields(verdict: Verdict) -> tuple[Any, ...]:
    v = verdict
    return v.attack, v.rule, v.attack_branch, v.score_branch, v.correct


class _CapturedLog(logging.Handler):
    """Collects what is logged within a block."""

    text = ""

    def emit(self, record: logging.LogRecord) -> None:
        self.text += record.getMessage()

    def __enter__(self) -> _CapturedLog:
        log.addHandler(self)
        self._level, log.propagate = log.level, False
        log.setLevel(logging.WARNING)
        return self

    def __exit__(self, *_: object) -> None:
        log.removeHandler(self)
        log.propagate = True
        log.setLevel(self._level)


def _stops_when_asked_a_third_time() -> ShouldStop:
    answers = iter([False, False, True])
    return lambda _: next(answers)


def main() -> int:
    """Damages all kinds of files and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--damages", type=int, default=10_000)
    parser.add_argument("--evaluations", type=int, default=40)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    log.setLevel(logging.CRITICAL)
    with TemporaryDirectory() as folder:
        found, faults = damage(write_all(Path(folder)), options.damages, options.seed)
        config = config_in(Path(folder))
        again, others = finish_damaged(config, options.evaluations, options.seed)
    bad = {
        fault: sum(n for (_, outcome), n in found.items() if outcome == fault) for fault in FAULTS
    }
    print(
        f"## Damaged files\n\n{', '.join(DAMAGES)}, at random places; {machine()}.\n\n"
        f"{options.damages:,} damages of {len({name for name, _ in found})} kinds of files: "
        f"{bad[NUMBER]} accepted with another number, {bad[FAULT]} tracebacks, {bad[NAMELESS]} "
        "refused without naming the file. Nothing is lost: the same content was read, since it was "
        "made again at once or the damage does not matter, such as a space.\n\n"
        f"{options.evaluations} evaluations whose journal or kept images were damaged half-way: "
        f"{len(others)} found other verdicts or images than one without damage; {again} named the "
        "file and evaluated its part again; the others lost nothing, or a line of the journal.\n"
    )
    names = list(dict.fromkeys(name for name, _ in found))
    rows = [(name, *(found[name, outcome] for outcome in OUTCOMES)) for name in names]
    print(tabulate(rows, headers=("file", *OUTCOMES), tablefmt="pipe"))
    print("\n".join(["", *faults[:20], *others]).rstrip())
    return 1 if faults or others else 0


if __name__ == "__main__":
    raise SystemExit(main())

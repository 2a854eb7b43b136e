"""Gives made inputs to everything that reads what others wrote; prints the table.

``python tests/fuzz [--inputs 100000] [--seed N]`` runs each target in a process of its own.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import random
import subprocess
import sys
import tempfile
import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT / "tests" / "helpers"), str(ROOT)]

import torch  # noqa: E402
from fuzz_harness import ACCEPTED, FAULT, HANG, REFUSED, fuzz, limit_memory  # noqa: E402
from fuzz_targets import KINDS, targets  # noqa: E402
from tabulate import tabulate  # noqa: E402

from benchmarks.workload import machine  # noqa: E402

_COLUMNS = (REFUSED, ACCEPTED, FAULT, HANG)


def run_kind(kind: str, per_share: float, seed: int) -> None:
    """Fuzzes the targets of a kind in this process; prints a line of JSON for each."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    logging.getLogger("robustnorm").setLevel(logging.CRITICAL)
    with tempfile.TemporaryDirectory() as folder:
        made = targets(Path(folder), kind)
        limit_memory()
        for name, target in made.items():
            found = fuzz(target, round(target.share * per_share), seed=seed)
            entry = [name, [found.counts[column] for column in _COLUMNS], found.seconds]
            print(json.dumps([*entry, found.faults]), flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--inputs", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**6))
    parser.add_argument("--kind", choices=list(KINDS))
    parser.add_argument("--per_share", type=float)
    options = parser.parse_args()
    if options.per_share:
        run_kind(options.kind, options.per_share, options.seed)
        return 0
    with tempfile.TemporaryDirectory() as folder:
        shares = sum(target.share for target in targets(Path(folder)).values())
    begin, rows, faults = time.perf_counter(), [], {}

    def run(kind: str) -> subprocess.CompletedProcess[str]:
        words = ["--kind", kind, "--per_share", str(options.inputs / shares)]
        words += ["--seed", str(options.seed)]
        command = [sys.executable, str(Path(__file__).parent), *words]
        return subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for kind, done in zip(KINDS, pool.map(run, KINDS), strict=True):
            for line in done.stdout.splitlines():
                name, counts, seconds, found = json.loads(line)
                rows.append((name, sum(counts), *counts, round(seconds)))
                faults |= {f"{name}: {place}": text for place, text in found.items()}
            if done.returncode:
                faults[kind] = f"the process ended with status {done.returncode}"
            print(f"{kind}: {time.perf_counter() - begin:.0f} s", file=sys.stderr, flush=True)
    total = [sum(column) for column in zip(*(row[1:] for row in rows), strict=True)]
    seconds = time.perf_counter() - begin
    print(
        "## Made inputs\n\nWords, files and records that no one expects: odd values, malformed "
        "ones under the right hash, damaged bytes. A fault is anything but an error of one "
        f"sentence, or more than 2 s; seed {options.seed}; {machine()}.\n\n"
        f"{total[0]:,} inputs in {seconds:.0f} s: {total[3]} tracebacks, {total[4]} hangs.\n"
    )
    headers = ("what is read", "inputs", *_COLUMNS, "seconds")
    print(tabulate([*rows, ("together", *total)], headers, tablefmt="pipe", intfmt=","))
    for place, text in faults.items():
        print(f"\n{place}\n{text}", file=sys.stderr)
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())

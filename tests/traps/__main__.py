"""Asks four tools about every trap, each in processes of its own; prints the table.

``python tests/traps`` prints all; ``python tests/traps TOOL NUMBER`` asks one tool from a trap on.
"""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import torch
from trap_report import to_markdown
from trap_tools import RAW, TOOLS, TRAPS, Outcome, ask

_SECONDS = 120


def ask_all(tool: str, begin: int) -> None:
    """Prints a line of JSON for each trap from a number on."""
    torch.set_num_threads(1)
    for name in list(TRAPS)[begin:]:
        print(json.dumps(["asking", name]), flush=True)
        print(json.dumps([name, *ask(tool, name)]), flush=True)


def run(tool: str) -> dict[str, Outcome]:
    """Returns the outcome of each trap; what ends the process or takes long is a raw error."""
    found: dict[str, Outcome] = {}
    while len(found) < len(TRAPS):
        command = [sys.executable, str(Path(__file__).parent), tool, str(len(found))]
        seconds = _SECONDS * 3
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=seconds)
            output, words = done.stdout, f"the process ended with status {done.returncode}"
        except subprocess.TimeoutExpired as error:
            output, words = (error.stdout or b"").decode(), f"no answer within {seconds} s"
        for line in output.splitlines():
            if line.startswith("[") and (entry := json.loads(line))[0] in TRAPS:
                found[entry[0]] = Outcome(*entry[1:])
        if len(found) < len(TRAPS):
            found[list(TRAPS)[len(found)]] = Outcome(RAW, None, words)
        print(f"{tool}: {len(found)} of {len(TRAPS)}", file=sys.stderr, flush=True)
    return found


def main() -> None:
    if len(sys.argv) == 3:
        ask_all(sys.argv[1], int(sys.argv[2]))
        return
    packages = {"AutoAttack": "pyautoattack"}
    versions = {tool: version(packages.get(tool, tool)) for tool in TOOLS}
    print(to_markdown({tool: run(tool) for tool in TOOLS}, versions))


if __name__ == "__main__":
    main()

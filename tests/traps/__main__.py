"""Asks four tools about every trap, each question in a process of its own; prints the table."""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import version

import torch
from tqdm import tqdm
from trap_apart import ask_apart
from trap_report import to_markdown
from trap_tools import TOOLS, TRAPS, Outcome

_PACKAGES = {"AutoAttack": "pyautoattack"}


def run(tool: str) -> dict[str, Outcome]:
    """Returns the outcome of each trap."""
    import_module(_PACKAGES.get(tool, tool))  # once, not in every process
    return {name: ask_apart(tool, name) for name in tqdm(TRAPS, desc=tool)}


def main() -> None:
    torch.set_num_threads(1)  # a forked process must not wait for threads that it does not have
    versions = {tool: version(_PACKAGES.get(tool, tool)) for tool in TOOLS}
    print(to_markdown({tool: run(tool) for tool in TOOLS}, versions))


if __name__ == "__main__":
    main()

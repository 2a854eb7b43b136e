"""The table of all tools and traps, and what stands below it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

import torch
from tabulate import tabulate
from trap_tools import RAW, RIGHT, SAID, TRAPS, WRONG, Outcome

_HEAD = """# Traps

`make traps` asks four tools for the robust accuracy of {count} inputs whose true answer is known:
by a formula where the network is linear, by asking at every point of a grid where it has two
pixels (`tests/traps/trap_truth.py`). Each tool is asked as its documentation does it
(`tests/traps/trap_tools.py`), each question in a process of its own: {tools}; torch {torch}.

- right: the number is the true one (within half an image of 20).
- clear refusal: an error of the tool's own that speaks of its arguments, or a number with a warning
  or a check that doubts it.
- raw error: any other exception, or the end of the process.
- silently wrong: another number, without a word; or a number where there is none to give, such as
  for labels that name no class.

AutoAttack's numbers are those of its standard version, torchattacks' and foolbox's those of PGD,
which is a weaker attack: where it leaves more images standing than truth allows, the tool does what
it says, and the number is still not the robust accuracy. torchattacks is asked for images only; its
accuracy is counted as its examples count it.
"""

# What to type to see it: given as lines of Python after ``model``, images and labels.
_LINES = {
    "AutoAttack": """from pyautoattack import AutoAttack

attack = AutoAttack(trap.model(), norm="{norm}", eps=trap.epsilon, device="cpu", seed=0)
(attack.run_standard_evaluation(trap.images, trap.labels)[1] == trap.labels).float().mean()""",
    "torchattacks": """from torchattacks import {pgd}

model = trap.model()
attack = {pgd}(model, eps=trap.epsilon, alpha=trap.epsilon / 4, steps=20)
(model(attack(trap.images, trap.labels)).argmax(1) == trap.labels).float().mean()""",
    "foolbox": """from foolbox import PyTorchModel
from foolbox.attacks import {fool}

attack, model = {fool}(), PyTorchModel(trap.model(), bounds=(0, 1))
1 - attack(model, trap.images, trap.labels, epsilons=trap.epsilon)[2].float().mean()""",
}


def to_markdown(found: Mapping[str, Mapping[str, Outcome]], versions: Mapping[str, str]) -> str:
    """Returns the report.

    Args:
        found: Tool to trap to outcome.
        versions: Of the tools.
    """
    named = ", ".join(f"{tool} {versions[tool]}" for tool in found)
    parts = [_HEAD.format(count=len(TRAPS), tools=named, torch=torch.__version__)]
    counts = {tool: Counter(outcome.verdict for outcome in found[tool].values()) for tool in found}
    rows = [[verdict, *(counts[tool][verdict] for tool in found)]
            for verdict in (RIGHT, SAID, RAW, WRONG)]  # fmt: skip
    parts.append(tabulate(rows, ["", *found], "pipe"))
    rows = [
        [name, _percent(trap.truth), *(_cell(found[tool][name]) for tool in found)]
        for name, trap in TRAPS.items()
    ]
    parts.append("## Every trap")
    parts.append("Robust accuracies in percent; the truth is a dash where only a refusal is right.")
    parts.append(tabulate(rows, ["Trap", "Truth", *found], "pipe"))
    parts.append("## What was said")
    rows = [
        [name, tool, outcome.verdict, outcome.words[:160].replace("|", "/")]
        for tool in found
        for name, outcome in found[tool].items()
        if outcome.words
    ]
    parts.append(tabulate(rows, ["Trap", "Tool", "", "Words"], "pipe"))
    parts.append("## Numbers that are silently wrong")
    parts.append(
        "In a shell in `tests/traps`, after `from trap_tools import TRAPS` and `trap = TRAPS[name]`"
        " with a name of the table, within `trap.around()`:"
    )
    for tool, lines in _LINES.items():
        wrong = [name for name, o in found.get(tool, {}).items() if o.verdict == WRONG]
        for norm in ("linf", "l2"):
            names = [name for name in wrong if TRAPS[name].threat_model == norm]
            if names:
                words = {"norm": {"linf": "Linf", "l2": "L2"}[norm],
                         "pgd": {"linf": "PGD", "l2": "PGDL2"}[norm],
                         "fool": {"linf": "LinfPGD", "l2": "L2PGD"}[norm]}  # fmt: skip
                parts.append(f"{tool} {versions[tool]}, {words['norm']}:")
                parts.append("```python\n" + lines.format(**words) + "\n```")
                parts += [_difference(name, found[tool][name]) for name in names]
    return "\n\n".join(parts)


def _difference(name: str, outcome: Outcome) -> str:
    truth = TRAPS[name].truth
    true = "there is none" if truth is None else f"true is {_percent(truth)} %"
    return f"- {name}: {_percent(outcome.answer)} %, {true}"


def _cell(outcome: Outcome) -> str:
    answer = "" if outcome.answer is None else f" {_percent(outcome.answer)}"
    return f"{outcome.verdict}{answer}"


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.4g}"

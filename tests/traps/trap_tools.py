"""How each tool is asked for a robust accuracy, as its own documentation does it."""

from __future__ import annotations

import logging
import traceback
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from trap_cases import FORMS, NETWORKS, Trap
from trap_masked import MASKED

TRAPS: dict[str, Trap] = {trap.name: trap for trap in (*FORMS, *NETWORKS, *MASKED)}

RIGHT, SAID, RAW, WRONG = "right", "clear refusal", "raw error", "silently wrong"
# Where a number may be off: half an image of twenty.
_TOLERANCE = 0.026


class Outcome(NamedTuple):
    """What a tool made of a trap.

    Attributes:
        verdict: One of the four.
        answer: Its robust accuracy, None where it gave none.
        words: Of its error or warning.
    """

    verdict: str
    answer: float | None
    words: str


def ours(trap: Trap) -> float:
    """robustnorm: ``evaluate``, PGD-20 and the worst case."""
    from robustnorm import evaluate

    verdicts = evaluate(
        trap.model(),
        trap.images,
        trap.labels,
        epsilon=trap.epsilon,
        step_size=_step(trap),
        steps=(20,),
        threat_model=trap.threat_model,
        attacks=["worst"],
    )
    return float(np.logical_and.reduce([verdict.correct for verdict in verdicts]).mean())


def checked(trap: Trap) -> str:
    """Returns what robustnorm's checks say of an evaluation, "" if it is reliable."""
    from robustnorm.evaluation.checks import run_checks
    from robustnorm.evaluation.search import Search

    search = Search(float(trap.epsilon), _step(trap), (20,), trap.threat_model)
    ids = torch.arange(len(trap.images))
    checks, _ = run_checks(
        trap.model(), trap.images, trap.labels, image_ids=ids, search=search, tier="quick"
    )
    return ", ".join(check.name for check in checks if check.verdict != "reliable")


def autoattack(trap: Trap) -> float:
    """AutoAttack, by pyautoattack: the standard version."""
    from pyautoattack import AutoAttack

    norm = {"linf": "Linf", "l2": "L2"}[trap.threat_model]
    attack = AutoAttack(trap.model(), norm=norm, eps=trap.epsilon, device="cpu", seed=0)
    _, predicted = attack.run_standard_evaluation(trap.images, trap.labels, batch_size=250)
    return _share(predicted == trap.labels)


def torchattacks(trap: Trap) -> float:
    """torchattacks: PGD or PGDL2, then the network's accuracy."""
    from torchattacks import PGD, PGDL2

    kind = {"linf": PGD, "l2": PGDL2}[trap.threat_model]
    model = trap.model()
    attack = kind(model, eps=trap.epsilon, alpha=_step(trap), steps=20)
    adv_images = attack(trap.images, trap.labels)
    return _share(model(adv_images).argmax(1) == trap.labels)


def foolbox(trap: Trap) -> float:
    """foolbox: LinfPGD or L2PGD as they are."""
    from foolbox import PyTorchModel
    from foolbox.attacks import L2PGD, LinfPGD

    attack = {"linf": LinfPGD, "l2": L2PGD}[trap.threat_model]()
    model = PyTorchModel(trap.model(), bounds=(0, 1))
    _, _, broken = attack(model, trap.images, trap.labels, epsilons=trap.epsilon)
    return 1 - _share(broken)


TOOLS: dict[str, Callable[[Trap], float]] = {
    "robustnorm": ours,
    "AutoAttack": autoattack,
    "torchattacks": torchattacks,
    "foolbox": foolbox,
}


def _step(trap: Trap) -> Any:
    return trap.epsilon if isinstance(trap.epsilon, str) else trap.epsilon / 4


def _share(values: Any) -> float:
    return float(torch.as_tensor(values).double().mean())


def ask(tool: str, name: str) -> Outcome:
    """Asks a tool and judges its answer by what is true."""
    trap, heard = TRAPS[name], _Heard()
    model = trap.model()
    trap = trap._replace(model=lambda: model)
    logger = logging.getLogger()
    logger.addHandler(heard)
    torch.manual_seed(0)
    try:
        with warnings.catch_warnings(record=True) as warned, trap.around():
            warnings.simplefilter("always")
            answer = TOOLS[tool](trap)
    except Exception as error:
        return Outcome(SAID if _is_clear(error) else RAW, None, _words(error))
    finally:
        logger.removeHandler(heard)
    if trap.truth is not None and abs(answer - trap.truth) <= _TOLERANCE:
        return Outcome(RIGHT, answer, "")
    said = [*heard.words, *(str(w.message) for w in warned if _is_of_the_tool(w.category))]
    if not said and tool == "robustnorm":
        with trap.around():
            said = [f"checks: {found}"] if (found := checked(trap)) else []
    return Outcome(SAID if said else WRONG, answer, said[0] if said else "")


class _Heard(logging.Handler):
    """Keeps the warnings of a tool's log."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.words: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.words.append(record.getMessage())


def _is_of_the_tool(category: type[Warning]) -> bool:
    """Leaves out what libraries say of their own code."""
    return not issubclass(category, DeprecationWarning | FutureWarning | PendingDeprecationWarning)


def _is_clear(error: Exception) -> bool:
    """Says whether a tool raised an error itself, of a kind that speaks of its arguments."""
    if not isinstance(error, ValueError | TypeError | AssertionError) or not str(error):
        return False
    frames = traceback.extract_tb(error.__traceback__)
    return "/torch/" not in frames[-1].filename and "raise" in (frames[-1].line or "raise")


def _words(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"

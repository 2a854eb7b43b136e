"""Plans: the runs that are trained and compared, and their evaluations; no torch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from robustnorm.norms import NORMS
from robustnorm.settings.config import Config
from robustnorm.system.errors import UsageError

PAPER_NORMS = ("bn", "modenorm", "auxbn", "saauxbn")


@dataclass(frozen=True)
class Plan:
    """Runs that differ only in norm and seed, to train and to evaluate.

    Args:
        name: Config as the user named it, or the name of a campaign's plan.
        seeds: One run per norm and seed; the first seed is finished first.
        runs: Settings of each norm and the control; their seed is ignored.
        evaluations: Settings of each evaluation by its name; norm and seed are ignored. Without
            any, the runs are only trained.
        only_seed: Seed of evaluations that only the runs of one seed have, by their name.
    """

    name: str
    seeds: tuple[int, ...]
    runs: tuple[Config, ...]
    evaluations: dict[str, Config]
    only_seed: dict[str, int] = field(default_factory=dict)

    def of_seed(self, seed: int) -> list[Config]:
        """Returns the settings of the runs of one seed."""
        return [replace(run, seed=seed) for run in self.runs]

    def all_runs(self) -> Iterator[Config]:
        """Yields the settings of all runs, seed by seed."""
        for seed in self.seeds:
            yield from self.of_seed(seed)

    def evaluated(self, name: str) -> list[Config]:
        """Returns the settings of the runs that an evaluation covers, seed by seed."""
        return self.of_seed(self.only_seed[name]) if name in self.only_seed else [*self.all_runs()]

    def reports(self, name: str) -> Path:
        """Returns the folder of an evaluation in the plan's reports."""
        return next(iter(self.evaluations.values())).reports_folder / name


def refuse_repeated(name: str, values: Sequence[object]) -> None:
    """Raises a ValueError when a list, such as that of the seeds, has a value more than once."""
    twice = [value for value, n in Counter(values).items() if n > 1]
    if twice:
        raise ValueError(f"{name} has {twice[0]} more than once")


def compared_runs(
    config: Config, norms: Sequence[str] = PAPER_NORMS, control: bool = True
) -> tuple[Config, ...]:
    """Returns the settings of each norm and, if requested, of bn trained on clean images only.

    Raises:
        ValueError: On an unknown norm, or settings of a control.
    """
    if not config.adversarial:
        raise UsageError(
            "adversarial must be true, since norms are compared that were trained on adversarial "
            "images, got false; robustnorm train --adversarial false trains a control"
        )
    runs = [replace(config, norm=NORMS.check(norm)) for norm in norms]
    return (*runs, *[replace(config, norm="bn", adversarial=False)] * control)


def training_plan(config: Config, norms: Sequence[str] = PAPER_NORMS, control: bool = True) -> Plan:
    """Returns the plan that trains norms with the config's seed."""
    return Plan(str(config.name), (config.seed,), compared_runs(config, norms, control), {})

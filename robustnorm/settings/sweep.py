"""Settings of ``robustnorm sweep``: norms, seeds and configs, and the job engine; no torch."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from robustnorm.settings.base import names
from robustnorm.settings.campaign import PAPER_NORMS, compared_runs
from robustnorm.settings.config import Config
from robustnorm.settings.groups import Compared
from robustnorm.settings.jobs import Engine, Places
from robustnorm.settings.parsing import read_config


@dataclass(frozen=True)
class SweepSettings(Engine, Places):
    """Runs to train and evaluate as jobs.

    Args:
        configs: Training configs, files or names in configs/; each is combined with all norms and
            seeds, and everything trained under its name is evaluated.
        settings: Changes to each config, in training or evaluation, such as
            {width: 16, attacks: [pgd-50x5-margin]}.
        norms: Norms to train with AdvProp.
        control: Also train bn on clean images only.
        seeds: One run per norm and seed, and for the control.

    Raises:
        ValueError: On a value out of range.
    """

    configs: list[str] = field(
        default_factory=list,
        metadata={"by_place": "Training configs, files or names in configs/."},
    )
    settings: dict[str, Any] = field(default_factory=dict)
    norms: tuple[str, ...] = PAPER_NORMS
    control: bool = True
    seeds: tuple[int, ...] = (0,)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.configs or len(set(self.configs)) < len(self.configs):
            raise ValueError(
                "sweep needs one or more different training configs, such as digits, got "
                f"{' '.join(self.configs) or 'none'}"
            )
        if not self.seeds:
            raise ValueError("seeds must name at least one seed, such as [0]")
        self._seed("seeds")
        compared = sorted(names(Compared) & self.settings.keys())
        if compared:
            raise ValueError(
                f"settings cannot have {', '.join(compared)}; norms, seeds and control are listed "
                "beside them"
            )


class Grid(NamedTuple):
    """One config of a sweep.

    Args:
        config: As given by the user.
        evaluation: Settings of its evaluation; norm and seed are ignored.
        runs: Settings of each run to train.
    """

    config: str
    evaluation: Config
    runs: tuple[Config, ...]


def grids(settings: SweepSettings) -> list[Grid]:
    """Returns norms x seeds of each config.

    Raises:
        ValueError: On an unknown config, setting or norm, or one of a wrong type or out of range,
            and on two configs that share a name.
    """
    where = settings.places
    found = []
    for config in settings.configs:
        base = read_config(config, settings.settings | where)
        kinds = compared_runs(base, settings.norms, settings.control)
        runs = tuple(replace(kind, seed=seed) for seed in settings.seeds for kind in kinds)
        found.append(Grid(config, base, runs))
    names = [grid.evaluation.name for grid in found]
    if len(set(names)) < len(names):
        raise ValueError(
            f"the configs of a sweep must have different names, got {', '.join(map(str, names))}; "
            "leave name out of settings"
        )
    return found

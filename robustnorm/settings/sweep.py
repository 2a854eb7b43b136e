"""Settings of ``robustnorm sweep``: norms, seeds and configs, and the job engine; no torch."""

from __future__ import annotations

import json
import shlex
from dataclasses import dataclass, field
from typing import Any

from robustnorm.settings.base import names
from robustnorm.settings.groups import Compared
from robustnorm.settings.jobs import Engine, SharedFiles
from robustnorm.settings.parsing import read_config
from robustnorm.settings.plan import PAPER_NORMS, Plan, compared_runs, refuse_repeated


@dataclass(frozen=True)
class SweepSettings(Engine, SharedFiles):
    """Runs to train and evaluate as jobs.

    Args:
        configs: Training configs, files or names in configs/. Each is combined with all norms and
            seeds; everything trained under its name is then evaluated.
        settings: Changes to each config, in training or evaluation, such as
            {width: 16, attacks: [pgd-50x5-margin]}.
        network: Network of every config; by default that of each config. A function in a module is
            imported only if its name is typed here.
        network_args: Further arguments of that network's function.
        norms: Norms to train with AdvProp.
        control: Also train bn on clean images only.
        seeds: One run per norm and seed, and for the control.

    Raises:
        ValueError: On a value out of range.
    """

    configs: list[str] = field(
        default_factory=list,
        metadata={"positional": "Training configs, files or names in configs/."},
    )
    settings: dict[str, Any] = field(default_factory=dict)
    network: str | None = None
    network_args: dict[str, Any] = field(default_factory=dict)
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
        refuse_repeated("seeds of the sweep", self.seeds)
        refuse_repeated("norms of the sweep", self.norms)
        compared = sorted(names(Compared) & self.settings.keys())
        if compared:
            raise ValueError(
                f"settings cannot have {', '.join(compared)}; norms, seeds and control are "
                "settings of the sweep itself"
            )
        twice = sorted(self.places.keys() & self.settings.keys())
        if twice:
            raise ValueError(
                f"{', '.join(twice)} of the sweep cannot be in settings too; give it once"
            )

    def train_command(self, config: str) -> str:
        """Returns the command that trains a norm of a config, with a placeholder ``{norm}``."""
        words = ["robustnorm", "sweep", config]
        defaults = SweepSettings(configs=[config]).to_dict()
        for name, value in self.to_dict().items():
            if name not in ("configs", "norms") and value != defaults[name]:
                text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
                words += [f"--{name}", text]
        return f"{shlex.join(words)} --norms {{norm}}"


def sweep_plans(settings: SweepSettings) -> list[Plan]:
    """Returns the plan of each config: norms x seeds, evaluated once.

    Raises:
        ValueError: On an unknown config, setting or norm, or one of a wrong type or out of range,
            and on two configs that share a name.
    """
    given = {"network": settings.network, "network_args": settings.network_args}
    changes = settings.settings | settings.places | {key: v for key, v in given.items() if v}
    found = []
    for config in settings.configs:
        base = read_config(config, changes)
        runs = compared_runs(base, settings.norms, settings.control)
        found.append(Plan(config, settings.seeds, runs, {"": base}))
    names = [str(plan.evaluations[""].name) for plan in found]
    if len(set(names)) < len(names):
        raise ValueError(
            f"the configs of a sweep must have different names, got {', '.join(names)}; "
            "leave name out of settings"
        )
    return found

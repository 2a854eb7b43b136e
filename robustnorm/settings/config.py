"""Settings of a run: all groups together, as saved with the run."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Self

from robustnorm.settings.groups import (
    Attack,
    BranchAttack,
    Compared,
    Data,
    Evaluation,
    Files,
    Named,
    Network,
    Training,
)


@dataclass(frozen=True)
class Config(Files, Evaluation, Attack, Training, Network, Data, Compared, Named):
    """Settings of a training run and its evaluation, described by their groups.

    Raises:
        ValueError: On a value out of range, with the requirement and the value received.
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        _ = self.adversarial_branches  # creating an attack checks it

    @property
    def adversarial_branches(self) -> dict[str, BranchAttack]:
        """The adversarial branches, at least one, with their attacks."""
        return self.branches or {
            "adv": BranchAttack(self.threat_model, self.epsilon, self.step_size)
        }

    @property
    def attack(self) -> BranchAttack:
        """The first adversarial branch's attack, also used for what has no branch of its own."""
        return next(iter(self.adversarial_branches.values()))

    @property
    def run(self) -> str:
        """Name of this run's folder: norm, training and seed."""
        training = "" if self.adversarial else "-plain"
        return f"{self.norm}{training}-seed{self.seed}"

    @property
    def folder(self) -> Path:
        """Folder of this run's checkpoints."""
        return Path(self.output) / str(self.name) / self.run

    @property
    def reports_folder(self) -> Path:
        """Folder of the tables and records."""
        return Path(self.reports) / str(self.name)

    @classmethod
    def of(cls, settings: Config) -> Config:
        """Returns the settings of a run from those of a command that has more."""
        return cls(**{field.name: getattr(settings, field.name) for field in fields(Config)})

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        """As of all settings; earlier versions had "autoattack", now an entry in ``attacks``."""
        return super().from_dict({name: values[name] for name in values if name != "autoattack"})

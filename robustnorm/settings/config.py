"""Settings of a run: its groups together, as they are saved with it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from robustnorm.settings.groups import (
    Attack,
    BranchAttack,
    Compared,
    Data,
    Evaluation,
    Named,
    Network,
    Training,
    Where,
)
from robustnorm.settings.values import make
from robustnorm.system.errors import RefusedFileError


@dataclass(frozen=True)
class Config(Where, Evaluation, Attack, Training, Network, Data, Compared, Named):
    """Settings of one training run and of its evaluation, as its groups describe them.

    Raises:
        ValueError: On a value out of range, with what is required and what was received.
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        _ = self.adversarial_branches  # an attack is checked when it is made

    @property
    def adversarial_branches(self) -> dict[str, BranchAttack]:
        """The adversarial branches, at least one, with what makes their images."""
        return self.branches or {
            "adv": BranchAttack(self.threat_model, self.epsilon, self.step_size)
        }

    @property
    def attack(self) -> BranchAttack:
        """What attacks where no adversarial branch is: the first one's attack."""
        return next(iter(self.adversarial_branches.values()))

    @property
    def run(self) -> str:
        """Name of this run's folder: the norm, what it was trained on, and the seed."""
        training = "" if self.adversarial else "-plain"
        return f"{self.norm}{training}-seed{self.seed}"

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Config:
        """Returns the settings that ``to_dict`` gave, here or in an earlier version.

        Raises:
            RefusedFileError: On anything else.
        """
        # "autoattack" chose what to evaluate before it was one of ``attacks``.
        try:
            return make(cls, {name: values[name] for name in values if name != "autoattack"})
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise RefusedFileError(
                f"this version cannot read the saved settings ({error}); remove the file "
                "that holds them"
            ) from error

    def differences(self, other: Config, ignore: frozenset[str]) -> dict[str, tuple[Any, Any]]:
        """Returns the settings of a run that differ, as field: (self's, other's)."""
        mine, others = self.to_dict(), other.to_dict()
        return {
            name: (mine[name], others[name])
            for name in mine
            if name in others and name not in ignore and mine[name] != others[name]
        }

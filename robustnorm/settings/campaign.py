"""Settings of a campaign: plans, each with a training config, norms, seeds and evaluations."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from robustnorm.settings.base import names
from robustnorm.settings.config import Config
from robustnorm.settings.groups import Compared, Evaluation
from robustnorm.settings.jobs import SharedFiles
from robustnorm.settings.parsing import read_config
from robustnorm.settings.plan import PAPER_NORMS, Plan, compared_runs, refuse_repeated
from robustnorm.system.names import check_name
from robustnorm.system.registry import unknown

# The page of a plan, which lies beside the folders of its evaluations.
PLAN_PAGE = "README.md"
_PLACES = names(SharedFiles) - {"data"} | {"name"}
# Transfer needs all runs at once, and the test curve is recorded during training.
_EVALUATION = names(Evaluation) - {"transfer", "test_curve"}


@dataclass(frozen=True)
class PlanSettings:
    """Runs compared in one table, which differ only in norm and seed.

    Args:
        config: Training config, a file or a name in configs/.
        settings: Changes to that config.
        norms: Norms to train with AdvProp.
        control: Also train bn on clean images only.
        seeds: One run per norm and seed, and for the control; the first seed is finished first.
        evaluations: Changes to the config's evaluation (checkpoint, test_limit, serving, ...) by
            the name of their folder of reports. README shows the first one.
        only_seed: Seed of evaluations that only the runs of one seed have, by their name.
    """

    config: str
    settings: dict[str, Any] = field(default_factory=dict)
    norms: tuple[str, ...] = PAPER_NORMS
    control: bool = True
    seeds: tuple[int, ...] = (0,)
    evaluations: dict[str, dict[str, Any]] = field(default_factory=lambda: {"best": {}})
    only_seed: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class CampaignSettings(SharedFiles):
    """Plans to carry out in order, with their files and devices.

    Args:
        data_root: Folder for downloads, unpacked archives and decoded images.
        device: cpu, cuda, ...; by default a GPU if there is one.
        output: Folder of checkpoints.
        reports: Folder of tables and result records.
        plans: Plans by the name of their folders under ``output`` and ``reports``.
        budget: Seconds to work; unlimited by default. The same command continues unfinished work.
        network: Functions in modules that the plans name as networks; each is imported only if its
            name is typed here.
        readme: Markdown file whose first block of results is replaced by the tables of the best
            finished plan; none by default.

    Raises:
        ValueError: On an invalid plan, before any work.
    """

    data_root: str = "data"  # a campaign's plans share their folders, whatever their configs say
    device: str = "auto"
    output: str = "checkpoints"
    reports: str = "reports"
    plans: dict[str, PlanSettings] = field(default_factory=dict)
    budget: float | None = None
    network: tuple[str, ...] = ()
    readme: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.plans:
            raise ValueError("plans must name at least one plan; give --config campaign")
        if self.budget is not None and self.budget <= 0:
            raise ValueError(f"budget must be above 0 seconds, got {self.budget}")
        for name, plan in self.plans.items():
            for word in (name, *plan.evaluations):
                check_name("the name of a plan or an evaluation", word)
                if word.lower() == PLAN_PAGE.lower():
                    raise ValueError(f"a plan or an evaluation cannot be called {word}")
            for field_name in ("norms", "seeds", "evaluations"):
                if not getattr(plan, field_name):
                    raise ValueError(f"plan {name} needs {field_name}, got none")
            for field_name in ("norms", "seeds"):
                refuse_repeated(f"{field_name} of plan {name}", getattr(plan, field_name))
            _refuse(name, "settings", (names(Compared) | _PLACES) & plan.settings.keys())
            for title, seed in plan.only_seed.items():
                if title not in plan.evaluations:
                    problem = unknown("evaluation", title, list(plan.evaluations))
                    raise ValueError(f"only_seed of plan {name}: {problem}")
                if seed not in plan.seeds:
                    raise ValueError(
                        f"only_seed of plan {name} gives {title} seed {seed}; choose one of the "
                        f"plan's seeds, {', '.join(map(str, plan.seeds))}"
                    )
            for changes in plan.evaluations.values():
                _refuse(name, "evaluations", changes.keys() - _EVALUATION)


def _refuse(plan: str, section: str, fields: set[str] | frozenset[str]) -> None:
    if fields:
        allowed = (
            "norms, seeds and control are settings of the plan itself, folders and device those "
            "of the campaign"
            if section == "settings"
            else f"allowed: {', '.join(sorted(_EVALUATION))}"
        )
        raise ValueError(
            f"{section} of plan {plan} cannot have {', '.join(sorted(fields))}; {allowed}"
        )


def campaign_plans(campaign: CampaignSettings) -> list[Plan]:
    """Reads the configs of the plans.

    Raises:
        ValueError: On an unknown config, setting or norm, or one of a wrong type or out of range.
    """
    plans = []
    for name, plan in campaign.plans.items():
        changes = plan.settings | campaign.places | {"name": name}
        run = read_config(plan.config, changes)
        runs = compared_runs(run, plan.norms, plan.control)
        evaluations = {
            title: read_config(plan.config, changes | more)
            for title, more in plan.evaluations.items()
        }
        for title, evaluation in evaluations.items():
            _check_epoch(f"evaluation {title} of plan {name}", evaluation)
            if evaluation.transfer:
                raise ValueError(
                    f"plan {name} cannot have transfer; use robustnorm eval --transfer true"
                )
        plans.append(Plan(name, plan.seeds, runs, evaluations, plan.only_seed))
        _ = [*plans[-1].all_runs()]  # checks the seeds, before those of the first run are trained
    return plans


def _check_epoch(evaluation: str, config: Config) -> None:
    """Raises a ValueError when an evaluation needs the weights of an epoch that no run keeps."""
    if not config.checkpoint.startswith("epoch"):
        return
    epoch = int(config.checkpoint[5:])
    if not 1 <= epoch <= config.epochs:
        raise ValueError(f"{evaluation} needs epoch {epoch}, but runs have {config.epochs}")
    if epoch not in config.keep_epochs:
        raise ValueError(
            f"{evaluation} needs the weights of epoch {epoch}, which no run keeps; add {epoch} to "
            "keep_epochs in its settings"
        )

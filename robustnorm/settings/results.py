"""Settings of the commands that read results: report, compare, verify, study; no torch."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, Literal

from robustnorm.settings.base import Settings, names
from robustnorm.settings.config import Config
from robustnorm.settings.groups import Named


@dataclass(frozen=True)
class ReportSettings(Named):
    """Settings of a report.

    Args:
        records: Result records or folders of them; those of the config by default.
        reports: Folder of tables and result records.
    """

    only_in_files: ClassVar[frozenset[str]] = names(Config) - {"name", "reports"}

    records: list[str] = field(
        default_factory=list,
        metadata={"positional": "Result records or folders of them; the config's by default."},
    )
    reports: str = "reports"


@dataclass(frozen=True)
class CompareSettings(Named):
    """Settings of a comparison.

    Args:
        evaluated: Folders of runs, result records, or folders of them, also of networks that other
            code trained.
        checkpoint: Weights of runs that are given by their folder: best, last, or epoch followed by
            a number.
        reports: Folder of tables and result records; the comparison goes to its folder ``name``.
    """

    only_in_files: ClassVar[frozenset[str]] = names(Config) - {"name", "checkpoint", "reports"}
    unnamed: ClassVar[str] = "comparison"

    evaluated: list[str] = field(
        default_factory=list,
        metadata={"positional": "Folders of runs, result records, or folders of result records."},
    )
    checkpoint: str = "best"
    reports: str = "reports"

    def __post_init__(self) -> None:
        super().__post_init__()
        self._tag("checkpoint")
        if not self.evaluated:
            raise ValueError(
                "compare needs what to compare: folders of runs such as "
                "checkpoints/digits/bn-seed0, result records, or folders of them"
            )


@dataclass(frozen=True)
class VerifySettings(Settings):
    """Settings of a re-check.

    Args:
        record: Path of the record, reports/<config>/records/<run>-<checkpoint>.json.
        data: digits, cifar10, or a path; the run's training data by default.
        data_root: Folder for downloads, unpacked archives and decoded images.
        output: Folder of checkpoints.
        device: cpu, cuda, cuda:1, ...; by default a GPU if there is one.
        network: The record's network if it is a function in a module, which is imported only if its
            name is typed here.
    """

    only_in_files: ClassVar[frozenset[str]] = names(Config) - {
        *("data", "data_root", "output", "device", "network"),
    }

    record: str
    data: str | None = None
    data_root: str = "data"
    output: str = "checkpoints"
    device: str = "auto"
    network: str | None = None


@dataclass(frozen=True)
class StudySettings(Config):
    """Studies of trained networks.

    Args:
        what: Study to run: swap, reestimate, gates, or all that apply to a network.
        study_batches: Training batches for re-estimating running statistics.
        study_images: Test images for ModeNorm's gates.
    """

    what: Literal["all", "swap", "reestimate", "gates"] = "all"
    study_batches: int = 50
    study_images: int = 1000

    def __post_init__(self) -> None:
        super().__post_init__()
        self._least(1, "study_batches", "study_images")

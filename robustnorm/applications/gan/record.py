"""The record of a trained GAN: everything that tables and figures need, but not its weights."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from robustnorm.evaluation.diversity import STAGE, StageDiversity
from robustnorm.evaluation.statistics import Interval
from robustnorm.records.record import RecordError
from robustnorm.system.files import write_atomically
from robustnorm.system.sealed import read_sealed, seal
from robustnorm.system.structure import check_structure, count, finite

_SCHEMA = 1
_MEASURES = {
    **dict.fromkeys(("distance", "score", "precision", "recall"), float),
    "label_accuracy": (float, None),
    "n": count,
}
_STRUCTURE = {
    "schema": int,
    "config": {
        **dict.fromkeys(("network", "norm"), str),
        **dict.fromkeys(("image_size", "steps", "discriminator_steps", "width"), count),
        "discriminator_width": count,
        "average": finite,
        "seed": int,
        "*": object,
    },
    "dataset": {"name": str, "sha256": str, "classes": [str], "train_images": count, "*": object},
    "features": (
        {"network": str, "sha256": str},
        {
            **dict.fromkeys(("network", "sha256"), str),
            **dict.fromkeys(("width", "epochs"), count),
            "accuracy": finite,
            "*": object,
        },
    ),
    "test_images": {"step?": count, **_MEASURES},
    "measured": [{"step": count, **_MEASURES}],
    "best": count,
    "losses": [{"step": count, "generator": float, "discriminator": float}],
    "gradients": [{"step": count, "reading": str, "stages": [STAGE]}],
    "seconds": finite,
    "device": str,
    "versions": {"*": str},
    "sha256": str,
}


@dataclass(frozen=True)
class ClassGradients:
    """How the classes' gradients at a step compare, by stage, for one reading of Eq. 4."""

    step: int
    reading: str
    stages: list[StageDiversity]

    def to_dict(self) -> dict[str, Any]:
        """Returns JSON values."""
        stages = [stage._asdict() for stage in self.stages]
        return {"step": self.step, "reading": self.reading, "stages": stages}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> ClassGradients:
        """Restores the result of ``to_dict``."""
        stages = [_stage(stage) for stage in values["stages"]]
        return cls(int(values["step"]), str(values["reading"]), stages)


@dataclass(frozen=True)
class GanRecord:
    """The results of a run.

    Args:
        config: ``GanSettings.to_dict`` plus the run's ``network``, ``norm`` and ``seed``.
        dataset: From ``describe_dataset``.
        features: Description of the feature network; for a classifier its ``accuracy`` and
            ``sha256``.
        test_images: Measures of the test images.
        measured: Measures of the generator's running mean, in order of their ``step``.
        best: Step with the lowest distance.
        losses: Means over windows: ``step`` (the window's last), ``generator``, ``discriminator``.
        gradients: Comparisons of gradients at the kept steps; empty if a gradient was zero.
        seconds: Time of all steps, without measuring and saving.
        device: Training device.
        versions: Versions of packages.
        sha256: Hash of the last checkpoint.
    """

    config: dict[str, Any]
    dataset: dict[str, Any]
    features: dict[str, Any]
    test_images: dict[str, Any]
    measured: list[dict[str, Any]]
    best: int
    losses: list[dict[str, float]]
    gradients: list[ClassGradients]
    seconds: float
    device: str
    versions: dict[str, str]
    sha256: str

    @property
    def network(self) -> str:
        """Name of the GAN."""
        return str(self.config["network"])

    @property
    def norm(self) -> str:
        """Name of the generator's norm."""
        return str(self.config["norm"])

    @property
    def seed(self) -> int:
        """Seed of the run."""
        return int(self.config["seed"])

    @property
    def compared(self) -> list[tuple[int, str, list[str]]]:
        """The step, the reading and the stages of each comparison of gradients."""
        return [(g.step, g.reading, [stage.stage for stage in g.stages]) for g in self.gradients]

    def at(self, when: str) -> dict[str, Any]:
        """Returns the measures at the ``"last"`` step, or at that with the ``"best"`` distance."""
        if when == "last":
            return self.measured[-1]
        return next(entry for entry in self.measured if entry["step"] == self.best)

    def save(self, path: Path) -> None:
        """Writes the record atomically."""
        content = {"schema": _SCHEMA} | asdict(self)
        content["gradients"] = [entry.to_dict() for entry in self.gradients]
        write_atomically(path, (json.dumps(seal(content), indent=1) + "\n").encode())

    @classmethod
    def load(cls, path: Path) -> GanRecord:
        """Reads a record from its file.

        Raises:
            RecordError: When the file does not hold a record.
        """
        try:
            content = read_sealed(path)
            schema = content.get("schema")
            if schema != _SCHEMA:
                raise ValueError(f"schema {_SCHEMA} is required, got {schema}")
            check_structure(content, _STRUCTURE)
            del content["schema"]
            content["gradients"] = [
                ClassGradients.from_dict(entry) for entry in content["gradients"]
            ]
            record = cls(**content)
            record.at("last"), record.at("best")
            if (record.test_images["label_accuracy"] is None) != any(
                entry["label_accuracy"] is None for entry in record.measured
            ):
                raise ValueError("either all measurements have a label accuracy, or none has")
        except (OSError, ValueError, KeyError, TypeError, IndexError, StopIteration) as error:
            raise RecordError(f"{path} is not a GAN's record ({error!r}); remove it") from error
        return record


def _stage(values: dict[str, Any]) -> StageDiversity:
    intervals = {
        name: values[name] and Interval(*map(float, values[name]))
        for name in ("std_interval", "cosine_interval")
    }
    return StageDiversity(**(values | intervals))


def pairs(records: Sequence[GanRecord], network: str) -> list[tuple[GanRecord, GanRecord]]:
    """Returns the records of a network with CCBN and with SaBN, paired by seed."""
    runs = {(r.norm, r.seed): r for r in records if r.network == network}
    seeds = sorted({seed for _, seed in runs})
    return [
        (runs["ccbn", seed], runs["sabn", seed])
        for seed in seeds
        if ("ccbn", seed) in runs and ("sabn", seed) in runs
    ]


def compared_pairs(records: Sequence[GanRecord], network: str) -> list[tuple[GanRecord, GanRecord]]:
    """Returns the ``pairs`` in which the gradients of both runs were compared."""
    return [(a, b) for a, b in pairs(records, network) if a.gradients and b.gradients]

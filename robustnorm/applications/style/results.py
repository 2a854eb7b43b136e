"""The trained rows of Figure 7, read from their records, with tests of their differences."""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import mean
from typing import Any

from scipy.stats import ttest_1samp

from robustnorm.evaluation.statistics import Interval, holm, student
from robustnorm.reporting.comparisons import LEVEL
from robustnorm.settings.style import ROWS
from robustnorm.system.errors import RefusedFileError, UsageError
from robustnorm.system.sealed import read_sealed
from robustnorm.system.structure import check_structure, count, finite

NAMES = {
    "adain": "AdaIN",
    "ilm": "ILM+IN",
    "saadain": "SaAdaIN",
    "ilm-detached": "ILM+IN, target detached",
    "saadain-detached": "SaAdaIN, target detached",
}
_PICTURES = {"name": str, "sha256": str, "pictures": count, "*": object}
_MEASURES = ("content", "fixed", "relative", "structure", "style", "gamma")
_STRUCTURE = {
    "format": count,
    "row": str,
    "seed": int,
    "config": {
        **dict.fromkeys(("validation_pairs", "batch_size", "crop", "log_every"), count),
        **dict.fromkeys(("content_weight", "style_weight"), finite),
        "recolor": bool,
        "variance": str,
        "*": object,
    },
    "dataset": {
        **dict.fromkeys(("content", "style", "validation_content", "validation_style"), _PICTURES),
        "*": object,
    },
    "encoder": {
        **dict.fromkeys(("name", "layer", "sha256"), str),
        "test_accuracy?": finite,
        "test_images?": count,
        "*": object,
    },
    "step": count,
    "curve": [[float]],
    "validation": [{"step": finite} | dict.fromkeys(_MEASURES, finite)],
    "seconds": finite,
    "device": str,
    "versions": {"*": str},
}

Record = dict[str, Any]


@dataclass(frozen=True)
class Row:
    """The runs of one row, sorted by seed.

    Args:
        row: Name of the row in the settings.
        records: One per seed.
    """

    row: str
    records: tuple[Record, ...]

    @property
    def name(self) -> str:
        """Name in reports."""
        return NAMES[self.row]

    @property
    def seeds(self) -> list[int]:
        return [record["seed"] for record in self.records]

    def values(self, measure: str) -> dict[int, float]:
        """Returns a measure after the last step, by seed."""
        return {record["seed"]: record["validation"][-1][measure] for record in self.records}

    def mean(self, measure: str) -> float:
        """Returns the mean of a measure over seeds."""
        return mean(self.values(measure).values())

    def interval(self, measure: str) -> Interval | None:
        """Returns the 95 % interval of that mean; None with one seed."""
        return student(list(self.values(measure).values()))


@dataclass(frozen=True)
class Difference:
    """A measure of one row minus that of another, on their common seeds.

    Args:
        measure: Name of the measure.
        row: The minuend.
        other: The subtrahend.
        values: Differences, one per seed.
        p: p-value of the paired t-test; None with one seed.
        adjusted: p after Holm's adjustment for all tests of the family.
    """

    measure: str
    row: Row
    other: Row
    values: tuple[float, ...]
    p: float | None
    adjusted: float | None = None

    @property
    def mean(self) -> float:
        return mean(self.values)

    @property
    def interval(self) -> Interval | None:
        return student(self.values)

    @property
    def sign(self) -> int:
        """-1 for lower, 1 for higher, 0 for not distinguishable."""
        if self.adjusted is None or self.adjusted > LEVEL:
            return 0
        return 1 if self.mean > 0 else -1


def read_records(folder: Path) -> list[Row]:
    """Reads the rows whose records are in a folder, in the order of the settings.

    Raises:
        UsageError: When there are none, or they differ in more than row and seed.
        RefusedFileError: When a file is not the record of a run.
    """
    records = [_read(path) for path in sorted(folder.glob("*.json"))]
    if not records:
        raise UsageError(f"there are no records in {folder}; run robustnorm figure7 first")
    first = records[0]
    for record in records:
        if part := _differing_part(first, record):
            raise UsageError(
                f"{record['row']}-seed{record['seed']} and {first['row']}-seed{first['seed']} "
                f"in {folder} differ in {part}; runs to compare may differ only in row and "
                "seed: move the other runs elsewhere"
            )
    ordered = sorted(records, key=lambda record: int(record["seed"]))
    return [
        Row(row, members)
        for row in ROWS
        if (members := tuple(record for record in ordered if record["row"] == row))
    ]


def check_others(folder: Path, about: dict[str, Any], trained: Collection[tuple[str, int]]) -> None:
    """Checks before a training that the records of other runs can be compared with it.

    Args:
        folder: Folder of the records.
        about: From ``describe_run``, of any of the runs to train.
        trained: Row and seed of each of them; their own records will be replaced.

    Raises:
        UsageError: When a record differs in more than row and seed.
        RefusedFileError: When a file is not the record of a run.
    """
    for path in sorted(folder.glob("*.json")):
        record = _read(path)
        if (record["row"], record["seed"]) in trained:
            continue
        if part := _differing_part(json.loads(json.dumps(about)), record):
            raise UsageError(
                f"{path} differs from this command in {part}, and runs to compare may differ only "
                "in row and seed: train its row and seed too, choose another --name, or move it "
                "elsewhere"
            )


def _differing_part(first: Record, record: Record) -> str:
    """Returns "config", "dataset" or "encoder" if two runs differ in it; "" otherwise."""
    for part, ignored in (("config", {"row", "seed"}), ("dataset", set()), ("encoder", set())):
        expected, found = (
            {k: v for k, v in r[part].items() if k not in ignored} for r in (first, record)
        )
        if expected != found:
            return part
    return ""


def _read(path: Path) -> Record:
    try:
        record = read_sealed(path)
        check_structure(record, _STRUCTURE)
        if record["row"] not in NAMES or not record["validation"]:
            raise ValueError("it has no measures of a known row")
        if len({"test_accuracy", "test_images"} & record["encoder"].keys()) == 1:
            raise ValueError("of test_accuracy and test_images, the encoder has only one")
        if not record["curve"] or any(len(point) != 3 for point in record["curve"]):
            raise ValueError("its curve must have points of three numbers")
    except (OSError, ValueError) as error:
        raise RefusedFileError(
            f"{path} is not a record of robustnorm figure7 ({error}); choose another --name, or "
            "remove it if it is a damaged one"
        ) from error
    return record


def paired_differences(rows: Sequence[Row], measures: Sequence[str]) -> list[Difference]:
    """Returns each row's difference from AdaIN and SaAdaIN's from others, tested as one family.

    Rows without a common seed are not compared.

    Args:
        rows: From ``read_records``.
        measures: Measures to compare.
    """
    by_name = {row.row: row for row in rows}
    wanted = [(row, "adain") for row in ROWS if row != "adain"]
    wanted += [("saadain", row) for row in ("ilm", "saadain-detached")]
    found = [
        _difference(measure, by_name[row], by_name[other])
        for measure in measures
        for row, other in wanted
        if row in by_name
        and other in by_name
        and not set(by_name[row].seeds).isdisjoint(by_name[other].seeds)
    ]
    tested = [difference for difference in found if difference.p is not None]
    adjusted = dict(
        zip(map(id, tested), holm([d.p for d in tested if d.p is not None]), strict=True)
    )
    return [replace(d, adjusted=adjusted.get(id(d))) for d in found]


def _difference(measure: str, row: Row, other: Row) -> Difference:
    first, second = row.values(measure), other.values(measure)
    values = tuple(first[seed] - second[seed] for seed in sorted(first.keys() & second.keys()))
    p = None
    if len(set(values)) > 1:
        p = float(ttest_1samp(values, 0.0).pvalue)
    return Difference(measure, row, other, values, p)

"""The origin of a report's numbers: hashes, versions, devices, settings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from robustnorm.records.record import Record
from robustnorm.reporting.model_records import ModelRecords
from robustnorm.reporting.render import Cell, Table
from robustnorm.settings.base import names
from robustnorm.settings.groups import Evaluation


@dataclass(frozen=True)
class Provenance:
    """The origin of a report.

    Args:
        runs: One row per record: checkpoint, hashes, device, time.
        data: Names and hashes of the data.
        versions: All versions of Python and of packages that occur.
        settings: Training settings that all runs share.
        differing: One row per run with the settings in which runs differ.
    """

    runs: Table
    data: dict[str, str]
    versions: dict[str, str]
    settings: dict[str, Any]
    differing: Table


def provenance(models: Sequence[ModelRecords]) -> Provenance:
    """Returns the origin of the models' records."""
    named = [(model.name, record) for model in models for record in model.records]
    records = [record for _, record in named]
    runs: list[tuple[Cell, ...]] = [
        (
            name,
            _seed(record),
            record.name,
            _checkpoint(record),
            record.checkpoint["sha256"][:12],
            record.config_hash,
            record.protocol_hash,
            record.device,
            f"{record.wall_seconds:,.0f}",
        )
        for name, record in named
    ]
    # Of an evaluation the protocol says more: these are what the run's training was given.
    left_out = names(Evaluation) - {"test_curve"}
    keys = [
        key
        for key in dict.fromkeys(key for record in records for key in record.config)
        if key not in left_out
    ]
    values = {key: [str(record.config.get(key, "-")) for record in records] for key in keys}
    agreed = {key: found[0] for key, found in values.items() if len(set(found)) == 1}
    differing = [key for key in keys if key not in agreed]
    versions: dict[str, list[str]] = {}
    for record in records:
        for package, version in record.versions.items():
            versions.setdefault(package, []).append(version)
    return Provenance(
        Table(
            "runs",
            "Runs",
            (
                "Model",
                "Seed",
                "Config",
                "Checkpoint",
                "Weights, SHA-256",
                "Settings",
                "Protocol",
                "Device",
                "Evaluation, s",
            ),
            runs,
            ["Settings and Protocol: fingerprints of the settings and the protocol listed below."],
        ),
        {
            "Data": f"{records[0].dataset['name']}, SHA-256 {records[0].dataset['sha256'][:16]}",
        },
        {package: ", ".join(dict.fromkeys(found)) for package, found in versions.items()},
        agreed,
        Table(
            "differing",
            "Settings in which the runs differ",
            ("Model", "Seed", *differing),
            [
                (name, _seed(record), *(values[key][row] for key in differing))
                for row, (name, record) in enumerate(named)
            ],
            [],
        ),
    )


def _seed(record: Record) -> str | None:
    return str(record.seed) if record.is_ours else None


def _checkpoint(record: Record) -> str:
    checkpoint = record.checkpoint
    if record.imported:
        return f"imported from {record.imported}"
    if record.given:
        return f"{record.given} given in Python"
    return f"{checkpoint['tag']}, epoch {checkpoint['epoch']} of {checkpoint['epochs']}"

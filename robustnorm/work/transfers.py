"""Scores the adversarial images of each run with every other run."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch

from robustnorm.data.dataset import Dataset, subset
from robustnorm.evaluation.protocol import images_folder, record_path
from robustnorm.evaluation.search import STEPS
from robustnorm.evaluation.transfer import transfer
from robustnorm.records.record import TRANSFER, Record
from robustnorm.runs import Run
from robustnorm.settings.config import Config
from robustnorm.system.stopping import ShouldStop, Stopped, interrupted


def score_transfers(
    records: dict[Run, Record],
    config: Config,
    dataset: Dataset,
    device: torch.device,
    reports: Path,
    should_stop: ShouldStop,
) -> list[Record]:
    """Scores the images of each run with every other run; returns the records with the verdicts."""
    ids, test = subset(dataset.test, config.test_limit)
    done: list[Record] = []
    for run, record in records.items():
        others = {other.folder: r for other, r in records.items() if other is not run}
        sources = {other.name: r.checkpoint["sha256"] for other, r in others.items()}
        if record.sources != sources:
            model = run.network(device)
            verdicts = [v for v in record.verdicts if not v.attack.startswith(TRANSFER)]
            for other, source in others.items():
                if interrupted(should_stop):
                    raise Stopped(f"{len(done)} of {len(records)} runs have their transfer attacks")
                verdicts += transfer(
                    model,
                    test.labels,
                    image_ids=ids,
                    source=source,
                    source_images=images_folder(record_path(reports, other, config)),
                    run=other.name,
                    attack=f"pgd-{max(STEPS)}",
                    serving=config.serving,
                    progress=f"{other.name} to {run.folder.name}",
                )
            record = replace(record, verdicts=verdicts, sources=sources)
            record.save(record_path(reports, run.folder, config))
        done.append(record)
    return done

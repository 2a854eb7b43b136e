"""Evaluates plain networks derived from a trained one."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from robustnorm.data.dataset import Dataset, subset
from robustnorm.evaluation.evaluate import evaluate
from robustnorm.evaluation.protocol import record_identity
from robustnorm.evaluation.search import STEPS, Search
from robustnorm.records.record import SINGLE, TRANSFER, Record, Verdict, fingerprint
from robustnorm.reporting.model_records import group
from robustnorm.settings.config import Config

log = logging.getLogger("robustnorm")


class Studied(NamedTuple):
    """A trained network, its settings, and its evaluation."""

    model: nn.Module
    trained: Config
    record: Record
    dataset: Dataset
    device: torch.device

    @property
    def name(self) -> str:
        return f"{group([self.record])[0].name}, seed {self.record.seed}"


class Variant(NamedTuple):
    """A plain network derived from a trained one.

    Attributes:
        name: Name in the tables.
        branch: The branch whose attack is used.
        network: The derived network; None for the trained network's branch itself.
    """

    name: str
    branch: str
    network: nn.Module | None


def evaluate_variants(
    run: Studied,
    config: Config,
    variants: list[Variant],
    protocol: dict[str, Any],
) -> Record:
    """Returns the run's record, with the verdicts on the networks derived from it.

    Args:
        run: The trained network.
        config: Gives the attack.
        variants: The derived networks.
        protocol: How they were derived, added to the record's protocol.
    """
    protocol = run.record.protocol | protocol
    wanted = replace(
        run.record,
        protocol=protocol,
        protocol_hash=fingerprint(protocol),
        checks=[],
        curve=[],
        examples=[],
    )
    stem = f"{run.trained.run}-{config.checkpoint}-{protocol['study']}"
    folder = Path(config.reports) / str(config.name) / "studies"
    path = folder / f"{stem}.json"
    if path.exists():
        found = Record.load(path)
        if record_identity(found) == record_identity(wanted):
            log.info("%s: already evaluated, in %s", stem, path)
            return found
    ids, test = subset(run.dataset.test, config.test_limit)
    journals: list[Path] = []
    verdicts: list[Verdict] = []
    for name, branch, network in variants:
        if network is None:
            scorer, found_verdicts = branch, run.record.verdicts
        else:
            scorer, attack = SINGLE, config.branches.get(branch, config.attack)
            journals.append(folder / f"{stem}-{len(journals)}.journal")
            found_verdicts = evaluate(
                network,
                test.images,
                test.labels,
                Search(**attack.options, steps=STEPS, seed=config.eval_seed),
                attacks=config.all_attacks,
                precision=config.eval_precision,
                compile=config.compile,
                image_ids=ids,
                journal=journals[-1],
                fingerprint=fingerprint(record_identity(wanted)),
                progress=f"evaluating {run.trained.run} {name}",
            )
        verdicts += [
            replace(verdict, attack_branch=name, score_branch=name)
            for verdict in found_verdicts
            if verdict.attack_branch == verdict.score_branch == scorer
            # Derived networks are not scored on images of other runs.
            and not verdict.attack.startswith(TRANSFER)
        ]
    record = replace(wanted, verdicts=verdicts)
    record.save(path)
    for journal in journals:
        journal.unlink()
    return record

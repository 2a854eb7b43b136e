"""Evaluates one trained run."""

from __future__ import annotations

import logging
import platform
import shutil
import time
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from robustnorm.data.dataset import Dataset, Split, subset
from robustnorm.evaluation.checks import check_installed, run_checks
from robustnorm.evaluation.chunks import CHUNK
from robustnorm.evaluation.evaluate import evaluate
from robustnorm.evaluation.examples import count_examples, make_examples
from robustnorm.evaluation.margins import median_margins
from robustnorm.evaluation.protocol import (
    evaluation_hash,
    images_folder,
    is_checked,
    jobs_folder,
    journal_path,
    keeps_images,
    protocol_of,
    record_path,
)
from robustnorm.evaluation.search import Search
from robustnorm.records.images import hashes
from robustnorm.records.journal import Journal
from robustnorm.records.parts import Check, CurvePoint, Example
from robustnorm.records.record import Record, Verdict, fingerprint
from robustnorm.runs import Run
from robustnorm.runs.described import network_source
from robustnorm.settings.base import names
from robustnorm.settings.config import Config
from robustnorm.settings.groups import Compared, Files, Network
from robustnorm.system.device import device_name, made_by
from robustnorm.system.errors import OutOfMemoryError
from robustnorm.system.memory import is_out_of_memory
from robustnorm.system.source import source_commit, version_differences, versions
from robustnorm.system.stopping import ShouldStop, Stopped, never
from robustnorm.work.earlier import recall, set_aside

log = logging.getLogger("robustnorm")


def evaluate_run(
    run: Run,
    config: Config,
    dataset: Dataset,
    device: torch.device,
    reports: Path,
    should_stop: ShouldStop = never,
    journal: Journal | None = None,
) -> Record:
    """Evaluates a run unless it has been evaluated already.

    If only checks are missing, only these are run. A record with other settings is set aside.

    Args:
        run: Opened at the checkpoint ``config.checkpoint``.
        config: Settings of the evaluation; norm and seed are ignored.
        dataset: The data set whose test images are attacked.
        device: Device to use.
        reports: Folder of the reports; the record lies in its subfolder ``records``.
        should_stop: Called as in ``evaluate``.
        journal: Parts that other jobs have finished; by default those of an earlier call.

    Raises:
        CheckpointError, RecordError: When a file is damaged.
        Stopped: When ``should_stop`` asks for it; the next call continues.
    """
    name, path = run.folder.name, record_path(reports, run.folder, config)
    wanted = evaluation_hash(run, config, dataset)
    ids, test = subset(dataset.test, config.test_limit)
    further = _Further(run, config, test, ids, should_stop)
    found = recall(run, config, dataset, reports)
    if found is not None and (is_checked(found, config) or made_here(found, device)):
        log.info("%s: already evaluated, in %s", name, path)
        _remove(jobs_folder(path) / wanted)
        return _complete(found, further, device, path)
    if config.checks != "none":
        check_installed(config.checks)  # before minutes of attacks
    model, trained = run.network(device), run.config
    protocol = protocol_of(config)
    set_aside(path, run, wanted)
    keep = images_folder(path) if keeps_images(config) else None
    journal = journal or Journal(journal_path(path, wanted), wanted, made_by(device))
    devices = sorted(journal.devices | {device_name(device)})
    if len(devices) > 1:
        log.warning(
            "%s: evaluated on several devices, whose last bits may differ: %s",
            name,
            "; ".join(devices),
        )
    verdicts = evaluate(
        model,
        test.images,
        test.labels,
        Search.of(config),
        precision=config.eval_precision,
        compile=config.compile,
        serving=config.serving,
        attacks=config.all_attacks,
        image_ids=ids,
        keep=keep,
        journal=journal,
        progress=f"evaluating {name}",
        should_stop=should_stop,
    )
    clock = time.perf_counter()
    shown = further.examples(model, verdicts)
    checks, curve = further.checks(model)
    seconds = journal.seconds + time.perf_counter() - clock
    # Without paths and devices: they do not affect the results, and a record may be published.
    settings = {key: value for key, value in trained.to_dict().items() if key not in names(Files)}
    if run.imported:
        settings = {key: settings[key] for key in sorted(names(Compared, Network))}
    record = Record(
        name=str(config.name),
        norm=trained.norm,
        seed=trained.seed,
        adversarial=trained.adversarial,
        checkpoint={
            "tag": config.checkpoint,
            "epoch": run.epoch,
            "epochs": 0 if run.imported else trained.epochs,
            "sha256": run.sha256,
        }
        | ({"imported": run.imported} if run.imported else {})
        | network_source(trained.network),
        config=settings,
        config_hash=fingerprint(settings),
        history=run.whole_history,
        dataset={key: run.dataset[key] for key in ("classes", "train_images")}
        | {"name": dataset.name, "sha256": dataset.sha256, "test_images": len(dataset.test)},
        image_ids=ids.tolist(),
        labels=test.labels.tolist(),
        protocol=protocol,
        protocol_hash=fingerprint(protocol),
        verdicts=verdicts,
        checks=checks,
        curve=curve,
        examples=shown,
        versions=versions() | {"python": platform.python_version()} | source_commit(),
        device="; ".join(devices),
        wall_seconds=round(seconds, 2),
        margins=median_margins(model, test.images, test.labels, serving=config.serving),
        images={} if keep is None else {"folder": keep.name, "files": hashes(keep)},
    )
    record.save(path)
    journal_path(path, wanted).unlink(missing_ok=True)
    _remove(jobs_folder(path))
    log.info("%s: %d images in %.0f s", name, record.n, record.wall_seconds)
    return record


def made_here(record: Record, device: torch.device) -> bool:
    """Returns whether the record's verdicts come from these versions and this device."""
    return not version_differences(record.versions | {"device": record.device}, made_by(device))


def _remove(jobs: Path) -> None:
    """Removes a folder of job results, and the two folders above it if they are then empty."""
    shutil.rmtree(jobs, ignore_errors=True)
    with suppress(OSError):  # not empty: other evaluations have results there
        jobs.parent.rmdir()
        jobs.parent.parent.rmdir()


@dataclass(frozen=True)
class _Further:
    """What a record holds besides verdicts, and what it is made from."""

    run: Run
    config: Config
    test: Split
    ids: Tensor
    should_stop: ShouldStop

    def examples(self, model: nn.Module, verdicts: list[Verdict]) -> list[Example]:
        """Makes the images that the report shows."""
        return make_examples(
            model,
            self.test.images,
            self.test.labels,
            verdicts,
            image_ids=self.ids,
            search=Search.of(self.config),
            precision=self.config.eval_precision,
            count=self.config.examples,
        )

    def checks(self, model: nn.Module) -> tuple[list[Check], list[CurvePoint]]:
        """Runs the checks of the evaluation."""
        config = self.config
        if config.checks == "none":
            return [], []
        if self.should_stop(0.0):
            raise Stopped("an evaluation lacks its checks")
        try:
            return run_checks(
                model,
                self.test.images,
                self.test.labels,
                image_ids=self.ids,
                search=Search.of(config),
                tier=config.checks,
                serving=config.serving,
                precision=config.eval_precision,
                compile=config.compile,
                recorded=_recorded(self.run),
                progress=f"checking {self.run.folder.name}",
                should_stop=self.should_stop,
            )
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            raise OutOfMemoryError(
                f"out of memory: the checks need {CHUNK} images at once; continue with the same "
                "command on a --device with more memory, or without them with --checks none"
            ) from error


def _complete(record: Record, further: _Further, device: torch.device, path: Path) -> Record:
    """Adds to a record what it lacks besides verdicts; saves and returns it."""
    run, config = further.run, further.config
    if not is_checked(record, config):
        clock = time.perf_counter()
        checks, curve = further.checks(run.network(device))
        protocol = protocol_of(config)
        record = replace(
            record,
            protocol=protocol,
            protocol_hash=fingerprint(protocol),
            checks=checks,
            curve=curve,
            wall_seconds=round(record.wall_seconds + time.perf_counter() - clock, 2),
        )
        record.save(path)
        log.info("%s: %s checks added", path, config.checks)
    if len(run.whole_history) > len(record.history):  # it was evaluated during its training
        record = replace(record, history=run.whole_history)
        record.save(path)
    if len(record.examples) != count_examples(record, config.examples):
        examples = further.examples(run.network(device), record.verdicts)
        record = replace(record, examples=examples)
        record.save(path)
        log.info("%s: %d images before and after the attack", path, len(examples))
        reports = path.parent.parent
        if (page := reports / "report.html").exists():
            log.warning(
                "%s still shows the images from before, until it is made again: robustnorm report "
                "--reports %s --name %s",
                *(page, reports.parent, reports.name),
            )
    return record


def _recorded(run: Run) -> dict[str, float]:
    """Returns each branch's standard accuracy on validation images, as recorded in training."""
    of_epoch = [entry for entry in run.whole_history if entry.get("epoch") == run.epoch]
    measured = of_epoch[-1].get("validation", {}) if of_epoch else {}
    return {branch: float(values["sa"]) for branch, values in measured.items()}

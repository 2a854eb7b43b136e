"""Jobs of a sweep: train a run, attack one chunk of images through one branch, write a record.

The files on disk tell whether a job is done; a job may run twice, even at the same time.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Protocol

import torch

from robustnorm.attacks.passes import Passes
from robustnorm.data.dataset import subset
from robustnorm.evaluation.attack import attack_chunk, attacks_in_order
from robustnorm.evaluation.chunks import CHUNK
from robustnorm.evaluation.probe import check_network
from robustnorm.evaluation.protocol import (
    evaluation_hash,
    find_record,
    images_folder,
    jobs_folder,
    keeps_images,
    protocol_of,
    record_path,
    verdict_settings,
)
from robustnorm.evaluation.search import Branch, Search, branches, scorers
from robustnorm.records.images import chunk_file, is_kept, read_chunk, write_chunk
from robustnorm.records.journal import ChunkVerdict, Journal, Key
from robustnorm.records.record import fingerprint
from robustnorm.runs import Run
from robustnorm.runs.described import load_data_once
from robustnorm.runs.run import is_trained
from robustnorm.settings.attack_names import parse_attacks
from robustnorm.settings.config import Config
from robustnorm.system.device import made_by, resolve_device
from robustnorm.system.errors import UsageError
from robustnorm.system.registry import some
from robustnorm.system.source import versions
from robustnorm.system.stopping import ShouldStop, Stopped, never
from robustnorm.work.earlier import recall
from robustnorm.work.evaluate_run import evaluate_run, made_here
from robustnorm.work.train import train_run

# Name of the PGD jobs, which give the verdicts on clean images and after each number of steps.
PGD = "pgd"


class Job(Protocol):
    """A piece of work that runs independently of all others."""

    @property
    def name(self) -> str:
        """Description for users."""

    def done(self) -> bool:
        """Returns whether its result is on disk."""

    def run(self, should_stop: ShouldStop = never) -> None:
        """Runs the job and writes its result atomically.

        Raises:
            Stopped: When ``should_stop`` asks for it; the next call continues.
        """


@dataclass(frozen=True)
class TrainJob:
    """Trains a run, or finishes training it."""

    config: Config

    @property
    def name(self) -> str:
        return f"train {self.config.name} {self.config.run}"

    def done(self) -> bool:
        return is_trained(self.config)

    def run(self, should_stop: ShouldStop = never) -> None:
        train_run(self.config, should_stop=should_stop)
        if not self.done():
            raise Stopped(f"{self.config.run} has not finished training")


@dataclass(frozen=True)
class AttackJob:
    """Attacks one chunk of images through one branch of a checkpoint.

    Args:
        folder: The run's folder.
        results: Folder of the results.
        config: Settings of the evaluation.
        checkpoint: The checkpoint's sha256.
        dataset: The data's sha256.
        attack: ``PGD``, or the name of a further attack.
        branch: Branch or serving rule.
        number: Number of the chunk.
        image_ids: Indices of the images in the test set, ascending, at most ``CHUNK``.
    """

    folder: Path
    results: Path
    config: Config
    checkpoint: str
    dataset: str
    attack: str
    branch: str
    number: int
    image_ids: tuple[int, ...]

    @property
    def name(self) -> str:
        first, last = self.image_ids[0], self.image_ids[-1]
        return (
            f"{self.attack} on {self.branch} of {self.config.name} {self.folder.name}, "
            f"images {first} to {last}"
        )

    @cached_property
    def key(self) -> str:
        """Hash of everything that determines the result, except versions and device."""
        return fingerprint(
            {
                "checkpoint": self.checkpoint,
                "dataset": self.dataset,
                "protocol": verdict_settings(protocol_of(self.config)),
                "attack": self.attack,
                "branch": self.branch,
                "image_ids": list(self.image_ids),
                "keeps_images": keeps_images(self.config),
            }
        )

    @property
    def path(self) -> Path:
        """Path of the journal that is the result; kept images lie beside it."""
        return self.results / f"{self.key}.journal"

    @property
    def images_path(self) -> Path:
        return self.path.with_suffix(".safetensors")

    @property
    def journal(self) -> Journal:
        """Journal of this chunk; empty until the job is done.

        Raises:
            UsageError: When it was made by other versions.
        """
        try:
            return Journal(self.path, self.key, versions())
        except UsageError as error:
            reason = str(error).removeprefix(f"{self.path} ")  # one message for all files
            raise UsageError(
                f"a result {reason}; the same holds for all files in {self.results}"
            ) from error

    def done(self) -> bool:
        """Returns whether the verdicts and the images to be kept are there, undamaged."""
        sha256 = self.journal.images.get(self.number)
        return sha256 is not None and (not sha256 or is_kept(self.images_path, sha256))

    def run(self, should_stop: ShouldStop = never) -> None:
        clock = time.perf_counter()
        attacked = _branches_to_attack(self.folder, self.config, self.checkpoint)
        dataset = load_data_once(self.config)
        if dataset.sha256 != self.dataset:
            raise UsageError(
                f"the data on this machine are not those of the sweep (SHA-256 "
                f"{dataset.sha256[:12]}, required {self.dataset[:12]}); give every machine the "
                "same data"
            )
        ids = torch.tensor(self.image_ids)
        test = dataset.test.take(ids)
        named = {attack.name: attack for attack in parse_attacks(self.config.all_attacks)}
        adv_images: dict[Key, torch.Tensor] | None = {} if keeps_images(self.config) else None
        passes: dict[Key, Passes] = {}
        outcomes = attack_chunk(
            [branch for branch in attacked if branch.name == self.branch],
            test.images,
            test.labels,
            ids,
            Search.of(self.config),
            adv_images,
            None if self.attack == PGD else named[self.attack],
            scored_by=attacked,
            passes=passes,
        )
        verdicts = {
            key: ChunkVerdict(o.correct.cpu().numpy(), o.agrees.cpu().numpy(), passes[key])
            for key, o in outcomes.items()
        }
        images = "" if adv_images is None else write_chunk(self.images_path, ids, adv_images)
        # The journal is written last: where it exists, everything does.
        by = made_by(resolve_device(self.config.device))  # other machines may have other devices
        journal = Journal(self.path, self.key, by, required=versions())
        journal.add(self.number, verdicts, time.perf_counter() - clock, images)


@dataclass(frozen=True)
class RecordJob:
    """Combines the journals of a checkpoint's attack jobs, runs the checks and writes the record.

    ``evaluate_run`` does this: it finds every part in the combined journal.

    Args:
        folder: The run's folder.
        config: Settings of the evaluation.
        attacks: The jobs that give the verdicts; none if the record has them, and only lacks
            checks.
    """

    folder: Path
    config: Config
    attacks: tuple[AttackJob, ...]

    @property
    def name(self) -> str:
        return f"record of {self.config.name} {self.folder.name}"

    def done(self) -> bool:
        run, reports = Run.find(self.folder, self.config.checkpoint), self.config.reports_folder
        return run is not None and (
            find_record(run, self.config, load_data_once(self.config), reports) is not None
        )

    def run(self, should_stop: ShouldStop = never) -> None:
        dataset, reports = load_data_once(self.config), self.config.reports_folder
        run = Run.find(self.folder, self.config.checkpoint)
        if run is None or any(run.sha256 != job.checkpoint for job in self.attacks):
            raise _changed(self.folder, self.config)
        journal = self._journal() if self.attacks else None  # else only checks are missing
        if journal is not None and keeps_images(self.config):
            folder = images_folder(record_path(reports, self.folder, self.config))
            journal.images |= self._collect_images(folder)
        device = resolve_device(self.config.device)
        evaluate_run(run, self.config, dataset, device, reports, should_stop, journal)

    def _journal(self) -> Journal:
        """Returns the verdicts of all attacks, chunk by chunk.

        Raises:
            UsageError: When results are missing; names their jobs.
        """
        missing = {job.name for job in self.attacks if not job.done()}
        if missing:
            raise UsageError(
                f"{len(missing)} results are missing ({some(missing)}); run the same command again"
            )
        combined = Journal(None, "")
        for job in self.attacks:
            journal = job.journal
            combined.chunks.setdefault(job.number, {}).update(journal.chunks[job.number])
            combined.images[job.number] = ""
            combined.seconds += journal.seconds
            combined.devices |= journal.devices
        return combined

    def _collect_images(self, folder: Path) -> dict[int, str]:
        """Writes the images of each chunk as an evaluation in one process does; returns hashes."""
        sha256: dict[int, str] = {}
        for stale in folder.glob("*.safetensors"):
            stale.unlink()
        chunks: dict[int, list[AttackJob]] = {}
        for job in self.attacks:
            chunks.setdefault(job.number, []).append(job)
        for number, jobs in chunks.items():
            adv_images: dict[Key, torch.Tensor] = {}
            for job in jobs:
                kept = read_chunk(job.images_path, job.journal.images[number]).images
                adv_images |= {key: torch.from_numpy(kept[key]) for key in kept}
            ids = torch.tensor(jobs[0].image_ids)
            sha256[number] = write_chunk(chunk_file(folder, number), ids, adv_images)
        return sha256


def record_job(run: Run, config: Config) -> RecordJob:
    """Returns the job that writes a run's record, with the attack jobs that it depends on.

    Args:
        run: Opened at the checkpoint ``config.checkpoint``.
        config: Settings of the evaluation.

    Raises:
        UsageError: When the run was trained on other data.
        CheckpointError: When the weights do not fit the settings.
    """
    dataset = load_data_once(config)
    run.check_data(dataset)
    found = recall(run, config, dataset, config.reports_folder)
    if found is not None and made_here(found, resolve_device(config.device)):
        return RecordJob(run.folder, config, ())
    model = run.network()
    ids = subset(dataset.test, config.test_limit)[0].sort().values
    record = record_path(config.reports_folder, run.folder, config)
    results = jobs_folder(record) / evaluation_hash(run, config, dataset)
    chunks = [tuple(chunk.tolist()) for chunk in torch.split(ids, CHUNK)]
    attacks = [
        AttackJob(
            run.folder,
            results,
            config,
            run.sha256,
            dataset.sha256,
            PGD if attack is None else attack.name,
            branch,
            number,
            chunk,
        )
        for attack in attacks_in_order(Search.of(config), parse_attacks(config.all_attacks))
        for branch in scorers(model, serving=config.serving)
        for number, chunk in enumerate(chunks)
    ]
    return RecordJob(run.folder, config, tuple(attacks))


@lru_cache(maxsize=1)
def _branches_to_attack(folder: Path, config: Config, sha256: str) -> list[Branch]:
    """Returns the branches of a run's checkpoint, checked and ready to be attacked."""
    run = Run.open(folder, config.checkpoint)
    if run.sha256 != sha256:
        raise _changed(folder, config)
    model = run.network(resolve_device(config.device))
    attacked = branches(
        model, config.eval_precision, serving=config.serving, compile=config.compile
    )
    test = load_data_once(config).test
    check_network(attacked, test.images, test.labels, parse_attacks(config.all_attacks))
    return attacked


def _changed(folder: Path, config: Config) -> UsageError:
    return UsageError(
        f"checkpoint '{config.checkpoint}' of {folder} changed during the sweep; wait until its "
        "training has ended, and run the same command again"
    )

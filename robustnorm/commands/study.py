"""Studies trained networks: swapped branches, re-estimated statistics, gates of ModeNorm."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor
from tqdm import tqdm

from robustnorm.attacks import pgd
from robustnorm.data.batches import epoch_batches, steps_per_epoch, to_float
from robustnorm.data.dataset import Dataset, Split, split_validation, subset
from robustnorm.evaluation.chunks import CHUNK
from robustnorm.evaluation.search import Branch, Search, climb
from robustnorm.models.folding import fold
from robustnorm.norms.mode import ModeNorm
from robustnorm.norms.routing import bind, branches_of
from robustnorm.records.record import SINGLE, Record
from robustnorm.reporting.render import Table, save_tables, to_text
from robustnorm.runs import Run
from robustnorm.runs.described import load_data
from robustnorm.settings.config import Config
from robustnorm.settings.results import StudySettings
from robustnorm.studies.gates import GateUsage, gates
from robustnorm.studies.reestimate import Drift, drift, reestimate
from robustnorm.studies.swap import split_layers, swapped
from robustnorm.studies.tables import drift_table, gate_tables, reestimation_table, swap_table
from robustnorm.studies.variants import Studied, Variant, evaluate_variants
from robustnorm.system.device import resolve_device
from robustnorm.system.errors import UsageError
from robustnorm.work.evaluate import evaluate_records, train_command


def study_runs(config: StudySettings, config_path: str | None = None) -> str:
    """Studies every checkpoint that fits ``config``, writes the tables, returns them as text.

    Evaluates the networks first, as ``evaluate_runs`` does. Skips what was already evaluated under
    the same protocol, so the same command continues an interrupted study.

    Args:
        config: The settings; norm and seed are ignored.
        config_path: Path of the config file, for the command that trains a missing norm.

    Raises:
        UsageError: When no checkpoint fits, or the study applies to none of the networks.
    """
    records = evaluate_records(config, train_command(config_path))
    dataset, device = load_data(config), resolve_device(config.device)
    runs = [_load(record, config, dataset, device) for record in records]
    made: list[Table] = []
    for name, (applies, study) in _STUDIES.items():
        suitable = [run for run in runs if applies(run)]
        if suitable and config.what in ("all", name):
            tables = study(suitable, config)
            save_tables(tables, config.reports_folder, name)
            made += tables
    if not made:
        norms = ", ".join(run.trained.norm for run in runs)
        raise UsageError(
            f"--what {config.what} applies to none of the networks that fit this config ({norms}): "
            "swap needs auxbn or saauxbn, reestimate needs one of those or auxstatbn, gates needs "
            "modenorm"
        )
    return to_text(made)


def _load(record: Record, config: Config, dataset: Dataset, device: torch.device) -> Studied:
    settings = {key: record.config[key] for key in ("norm", "seed", "adversarial")}
    run = Run.open(replace(config, **settings).folder, config.checkpoint)
    return Studied(run.network(device), run.config, record, dataset, device)


def _swap(runs: list[Studied], config: StudySettings) -> list[Table]:
    records = []
    for run in runs:
        pairs = itertools.product(branches_of(run.model), repeat=2)
        variants = [
            Variant(
                f"{statistics}/{affine}",
                affine,
                None
                if statistics == affine
                else swapped(run.model, statistics=statistics, affine=affine),
            )
            for statistics, affine in pairs
        ]
        records.append(evaluate_variants(run, config, variants, {"study": "swap"}))
    return [swap_table(records)]


def _reestimate(runs: list[Studied], config: StudySettings) -> list[Table]:
    records: list[Record] = []
    drifts: dict[tuple[str, str], list[Drift]] = {}
    for run in runs:
        variants: list[Variant] = []
        for branch in branches_of(run.model):
            model = copy.deepcopy(run.model)
            reestimate(model, branch, _training_images(run, branch, config.study_batches))
            drifts[run.name, branch] = drift(run.model, model, branch)
            variants += [
                Variant(f"{branch}/stored", branch, None),
                Variant(f"{branch}/measured again", branch, fold(model, branch)),
            ]
        protocol = {"study": "reestimate", "study_batches": config.study_batches}
        records.append(evaluate_variants(run, config, variants, protocol))
    return [
        reestimation_table(records, config.study_batches),
        drift_table(drifts, config.study_batches),
    ]


def _training_images(run: Studied, branch: str, most: int) -> Iterator[Tensor]:
    """Yields a branch's images as in training, from the epoch that would follow the last one."""
    trained = run.trained
    training, _ = split_validation(run.dataset.train, trained.validation, trained.train_limit)
    batches = epoch_batches(
        training.to(run.device),
        batch_size=trained.batch_size,
        seed=trained.seed,
        epoch=trained.epochs,
        augmentation=run.dataset.augmentation.changed(
            trained.padding, trained.flip, trained.crop_area
        ),
        channels_last=trained.channels_last,
    )
    attacked = bind(copy.deepcopy(run.model).train(), branch)
    generator = torch.Generator(run.device).manual_seed(trained.seed)
    steps = min(most, steps_per_epoch(len(training), trained.batch_size))
    title = f"measuring {run.trained.run} {branch}"
    for batch in tqdm(
        itertools.islice(batches, steps), desc=title, total=steps, disable=None, leave=False
    ):
        if branch == "clean":
            yield batch.images
        else:
            attack = trained.adversarial_branches[branch]
            yield pgd(
                attacked,
                batch.images,
                batch.labels,
                **attack.options,
                steps=trained.train_steps,
                generator=generator,
            )


def _gates(runs: list[Studied], config: StudySettings) -> list[Table]:
    usages = {}
    for run in runs:
        images = min(config.study_images, len(run.dataset.test))
        ids, test = subset(run.dataset.test, images)
        clean, adv = zip(*_before_and_after(run, config, ids, test), strict=True)
        before, after = gates(run.model, clean), gates(run.model, adv)
        usages[run.name] = [GateUsage(layer, before[layer], after[layer]) for layer in before]
    return gate_tables(usages, [run.record for run in runs])


def _before_and_after(
    run: Studied, config: Config, ids: Tensor, test: Split
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yields test images and their PGD images, from the random starts of an evaluation."""
    branch = Branch(SINGLE, run.model, run.model)
    search = Search.of(config)
    chunks = torch.split(torch.arange(len(test)), CHUNK)
    for part in tqdm(chunks, desc=f"attacking {run.trained.run}", disable=None, leave=False):
        images = to_float(test.images[part].to(run.device))
        adv_images = climb(branch, images, test.labels[part].to(run.device), ids[part], search)
        yield images, adv_images


def _has_statistics(run: Studied) -> bool:
    return run.trained.adversarial and bool(split_layers(run.model))


def _has_statistics_and_affine(run: Studied) -> bool:
    layers = split_layers(run.model).values()
    return run.trained.adversarial and any(layer.affine != "shared" for layer in layers)


def _has_gates(run: Studied) -> bool:
    return any(isinstance(module, ModeNorm) for module in run.model.modules())


# Each study by name: whether it applies to a network, and the function that makes its tables.
_STUDIES = {
    "swap": (_has_statistics_and_affine, _swap),
    "reestimate": (_has_statistics, _reestimate),
    "gates": (_has_gates, _gates),
}

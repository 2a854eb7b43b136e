"""Compares the gradients of branches and classes of trained runs."""

from __future__ import annotations

import json
import logging
from importlib.metadata import version
from pathlib import Path

from robustnorm.data import load_dataset
from robustnorm.data.dataset import subset
from robustnorm.evaluation.search import Search
from robustnorm.reporting.gradients import gradient_results, gradient_table
from robustnorm.reporting.model_records import ModelRecords
from robustnorm.reporting.render import to_text
from robustnorm.runs import Run
from robustnorm.settings.config import Config
from robustnorm.settings.diagnose import DiagnoseSettings
from robustnorm.studies.diagnosis import diagnose
from robustnorm.system.device import device_name, resolve_device
from robustnorm.system.errors import UsageError
from robustnorm.system.extras import extra
from robustnorm.system.files import write_atomically
from robustnorm.system.sealed import seal

log = logging.getLogger("robustnorm")


def diagnose_runs(settings: DiagnoseSettings) -> str:
    """Compares the gradients of each run on the same images; returns the tables as text.

    Also writes the results as JSON and the plots.

    Args:
        settings: The runs, and which images to use.

    Raises:
        UsageError: When the runs were trained on different data or with different attacks, or there
            are too few images.
        CheckpointError, DataError: When a checkpoint or the data are unusable.
        ImportError: When matplotlib is not installed.
    """
    with extra("report", "a plot needs matplotlib"):
        from robustnorm.reporting import drawing, figures
    device = resolve_device(settings.device)
    folders = [Path(run) for run in settings.runs]
    runs = [Run.open(folder, settings.checkpoint) for folder in folders]
    configs = [run.config for run in runs]
    attacks = {_attacks(config) for config in configs}
    if len(attacks) > 1:
        raise UsageError(
            "runs to compare must be trained with the same attacks, got "
            f"{' and '.join(sorted(attacks))}"
        )
    first = configs[0]
    dataset = load_dataset(
        first.data if settings.data is None else settings.data,
        root=Path(settings.data_root),
        resize=first.resize,
    )
    for run in runs:
        run.check_data(dataset)
    ids, test = subset(dataset.test, min(settings.test_limit, len(dataset.test)))
    search = Search.of(first, (settings.steps,))._replace(seed=settings.seed)
    models = _models(configs, folders)
    names = [model.name for model in models]
    found = {}
    for name, run in zip(names, runs, strict=True):
        try:
            found[name] = diagnose(
                run.network(device),
                test.images[:],
                test.labels,
                num_classes=len(dataset.classes),
                search=search,
                batches=settings.batches,
                image_ids=ids,
                progress=f"diagnosing {name}",
            )
        except ValueError as error:
            raise UsageError(f"{name}: {error}") from error
        log.info("%s: gradients of %d images", name, len(ids))
    reports = Path(settings.reports) / str(first.name) / "gradients"
    setting = (
        f"n = {len(ids)} of {len(dataset.test)} test images of {dataset.name} in "
        f"{settings.batches} batches; checkpoint '{settings.checkpoint}'; evaluation mode (running "
        "statistics). Branch clean gets the clean images, the others their "
        f"PGD-{settings.steps} images, {attacks.pop()}, seed {settings.seed} of batches and starts."
    )
    provenance = {
        "checkpoints": {
            name: {
                "run": run.name,
                "tag": settings.checkpoint,
                "epoch": run.epoch,
                "sha256": run.sha256,
            }
            for name, run in zip(names, runs, strict=True)
        },
        "dataset": {"name": dataset.name, "sha256": dataset.sha256},
        "versions": {package: version(package) for package in ("robustnorm", "torch", "numpy")},
        "device": device_name(device),
    }
    looks, tables = drawing.looks(models), []
    for result in (each | provenance for each in gradient_results(found, setting)):
        parts = [result["kind"], *(run.name for run in runs), settings.checkpoint]
        path = reports / ("-".join(parts) + ".json")
        write_atomically(path, (json.dumps(seal(result), indent=1) + "\n").encode())
        log.info("wrote %s", path)
        with drawing.style():
            figure = figures.gradients(result, looks)
        for suffix, data in drawing.save(figure).items():
            write_atomically(path.with_suffix(f".{suffix}"), data)
            log.info("wrote %s", path.with_suffix(f".{suffix}"))
        tables.append(gradient_table(result))
    return to_text(tables)


def _attacks(config: Config) -> str:
    """Describes the attack on each adversarial branch."""
    return "; ".join(
        f"{branch}: {attack.threat_model.capitalize()}, epsilon {attack.epsilon}, "
        f"step size {attack.step_size}"
        for branch, attack in config.adversarial_branches.items()
    )


def _models(configs: list[Config], folders: list[Path]) -> list[ModelRecords]:
    """Returns the runs as models, with seed or folder in the name if it is not unique otherwise."""
    remarks = (
        [""] * len(configs),
        [f"seed {config.seed}" for config in configs],
        [str(folder) for folder in folders],
    )
    candidates = [
        [
            ModelRecords(config.norm, config.adversarial, [], remark)
            for config, remark in zip(configs, words, strict=True)
        ]
        for words in remarks
    ]
    return next(
        models for models in candidates if len({model.name for model in models}) == len(models)
    )

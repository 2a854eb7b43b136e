"""Compares the gradients of branches and classes of trained runs."""

from __future__ import annotations

import logging
from importlib.metadata import version
from pathlib import Path

from robustnorm.commands.diagnose_settings import DiagnoseSettings
from robustnorm.config import Config
from robustnorm.data import load_dataset
from robustnorm.data.dataset import subset
from robustnorm.evaluation.diagnosis import diagnose
from robustnorm.evaluation.search import Search
from robustnorm.reporting.gradients import (
    gradient_result,
    gradient_table,
    require_matplotlib,
    write_gradients,
)
from robustnorm.reporting.render import to_text
from robustnorm.runs import (
    UsageError,
    check_same_dataset,
    device_name,
    load_model,
    resolve_device,
    to_channels_last,
)

log = logging.getLogger("robustnorm")


def diagnose_runs(settings: DiagnoseSettings, config_path: str | None = None) -> str:
    """Diagnoses each run on the same images, writes table and plot, returns the tables as text.

    Args:
        settings: The runs, and on what to compare them.
        config_path: Not used; every command takes one.

    Raises:
        UsageError: When the runs were trained on other data or under other threats, or there are
            too few images.
        CheckpointError, DataError: As checkpoints and data tell.
        ImportError: When matplotlib is not installed.
    """
    require_matplotlib()
    device = resolve_device(settings.device)
    folders = _names(settings.runs)
    runs = {name: load_model(folder, settings.checkpoint) for name, folder in folders.items()}
    configs = [Config.from_dict(manifest["config"]) for _, manifest in runs.values()]
    threats = {f"epsilon {config.epsilon}, step size {config.step_size}" for config in configs}
    if len(threats) > 1:
        raise UsageError(
            f"runs to compare must be trained under one threat, got {' and '.join(sorted(threats))}"
        )
    first = configs[0]
    dataset = load_dataset(
        first.data if settings.data is None else settings.data, root=Path(settings.data_root)
    )
    for folder, (_, manifest) in zip(folders.values(), runs.values(), strict=True):
        check_same_dataset(manifest, dataset, folder)
    ids, test = subset(dataset.test, min(settings.test_limit, len(dataset.test)))
    search = Search(
        float(first.epsilon), float(first.step_size), (settings.steps,), seed=settings.seed
    )
    found = {}
    for (name, (model, _)), config in zip(runs.items(), configs, strict=True):
        model.to(device)
        if config.channels_last:
            to_channels_last(model)
        try:
            found[name] = diagnose(
                model,
                test.images,
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
        f"statistics). Branch clean is given the images, any other PGD-{settings.steps} images "
        f"(Linf, {threats.pop()}, seed {settings.seed})."
    )
    provenance = {
        "checkpoints": {
            name: {"tag": settings.checkpoint, "epoch": saved["epoch"], "sha256": saved["sha256"]}
            for name, (_, saved) in runs.items()
        },
        "dataset": {"name": dataset.name, "sha256": dataset.sha256},
        "versions": {package: version(package) for package in ("robustnorm", "torch", "numpy")},
        "device": device_name(device),
    }
    compared = {
        "branches": {name: diagnosis.branches for name, diagnosis in found.items()},
        "classes": {
            f"{name} ({branch})": stages
            for name, diagnosis in found.items()
            for branch, stages in diagnosis.classes.items()
        },
    }
    tables = []
    for kind, models in compared.items():
        result = gradient_result(kind, models, setting) | provenance
        stem = "-".join([kind, *runs, settings.checkpoint]).replace("/", "-")
        for path in write_gradients(result, reports / stem):
            log.info("wrote %s", path)
        tables.append(gradient_table(result))
    return to_text(tables)


def _names(folders: list[str]) -> dict[str, Path]:
    """Returns the folders by their last part, or by all of them where that is not unique."""
    paths = [Path(folder) for folder in folders]
    names = {path.name: path for path in paths}
    return names if len(names) == len(paths) else {str(path): path for path in paths}

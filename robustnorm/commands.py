"""What the command line does once the settings are known to be sound."""

from __future__ import annotations

import json
import logging
import platform
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
import yaml
from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from robustnorm.config import WHERE, Config
from robustnorm.data.batches import steps_per_epoch
from robustnorm.data.dataset import Dataset, split_validation, subset
from robustnorm.evaluation.evaluate import evaluate
from robustnorm.evaluation.records import Record, fingerprint
from robustnorm.evaluation.search import CHUNK
from robustnorm.files import write_atomically
from robustnorm.reporting.render import to_text
from robustnorm.reporting.tables import tables, write_tables
from robustnorm.runs import (
    UsageError,
    augmentation,
    build_model,
    check_same_dataset,
    check_same_run,
    describe_dataset,
    device_name,
    find_runs,
    load_data,
    load_model,
    misfit,
    resolve_device,
    run_folder,
    to_channels_last,
)
from robustnorm.training.advprop import EpochRecord, NonFiniteLossError, train
from robustnorm.training.checkpoint import (
    load_checkpoint,
    read_manifest,
    restore,
    save_checkpoint,
)
from robustnorm.training.metrics import TensorBoard

log = logging.getLogger("robustnorm")

PAPER_NORMS = ("bn", "modenorm", "auxbn", "saauxbn")
# PGD steps of Table 4.
STEPS = (10, 20)


def train_run(config: Config) -> None:
    """Trains one norm under one seed, or continues its interrupted run.

    Raises:
        UsageError: When the folder holds a run with other settings or data, or the loss diverges
            (the last good checkpoint is kept).
        DataError, CheckpointError: As data and checkpoint tell.
    """
    folder = run_folder(config)
    manifest = read_manifest(folder, "last")
    if manifest is not None:
        check_same_run(config, manifest, folder)
        if manifest["epoch"] == config.epochs:
            log.info("%s: already trained, in %s", config.run, folder)
            return
    device = resolve_device(config.device)
    dataset = load_data(config)
    if manifest is not None:
        check_same_dataset(manifest, dataset, folder)
    training, validation = split_validation(dataset.train, config.validation, config.train_limit)
    steps_per_epoch(len(training), config.batch_size)  # refuses a batch larger than the data
    info = describe_dataset(dataset, len(training))
    model = build_model(config, info).to(device)
    if config.channels_last:
        to_channels_last(model)
    optimizer = torch.optim.SGD(
        model.parameters(),
        lr=config.learning_rate,
        momentum=config.momentum,
        weight_decay=config.weight_decay,
    )
    history: list[dict[str, Any]] = []
    best = -1.0
    if manifest is not None:
        restore(load_checkpoint(folder, "last"), model, optimizer)
        history, best = manifest["history"], manifest["best"]
    begun = len(history)
    log.info(
        "%s: epochs %d to %d on %d images of %s, %s, into %s",
        config.run, begun + 1, config.epochs, len(training), dataset.name, device, folder,
    )  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    settings = yaml.safe_dump(config.to_dict(), sort_keys=False)
    write_atomically(folder / "config.yaml", settings.encode())
    clock = time.perf_counter()
    with (
        _progress_bar(config, len(training), begun) as bar,
        TensorBoard(folder, enabled=config.tensorboard, first_epoch=begun) as board,
    ):
        records = train(
            model,
            training.to(device),
            validation.to(device),
            config=config,
            augmentation=augmentation(config, dataset),
            optimizer=optimizer,
            first_epoch=begun,
            bar=bar,
        )
        try:
            for record in records:
                history.append(record.to_dict())
                score = _selection_score(config, record)
                content = {
                    "epoch": record.epoch,
                    "score": score,
                    "best": max(best, score),
                    "config": config.to_dict(),
                    "dataset": info,
                    "history": history,
                }
                # "last" is saved last: a run killed before that repeats the epoch, to the same end.
                if record.epoch in config.keep_epochs:
                    save_checkpoint(folder, f"epoch{record.epoch}", model, content)
                if score > best:
                    best = score
                    save_checkpoint(folder, "best", model, content)
                save_checkpoint(folder, "last", model, content, optimizer)
                lines = "".join(json.dumps(entry) + "\n" for entry in history)
                write_atomically(folder / "metrics.jsonl", lines.encode())
                board.write(record)
                per_epoch = (time.perf_counter() - clock) / (record.epoch - begun)
                left = per_epoch * (config.epochs - record.epoch)
                log.info("%s: %s", config.run, _epoch_line(config, record, left))
        except NonFiniteLossError as error:
            raise UsageError(_diverged(error, folder, len(history))) from error


def evaluate_runs(config: Config, train_command: str) -> str:
    """Evaluates every checkpoint that fits ``config``, writes reports, returns the tables as text.

    A checkpoint evaluated before under the same protocol is not evaluated again.

    Args:
        config: The settings; norm and seed do not matter.
        train_command: What trains a missing norm, with ``{norm}`` in its place.

    Raises:
        UsageError: When no checkpoint fits, or one was trained on other data.
    """
    runs = find_runs(config)
    for folder, manifest in list(runs.items()):
        difference = misfit(config, manifest)
        if difference:
            log.warning("%s is left out, its settings differ: %s", folder, difference)
            del runs[folder]
    if not runs:
        raise UsageError(
            f"no checkpoint '{config.checkpoint}' fits this config under "
            f"{run_folder(config).parent}; train one first: {train_command.format(norm='saauxbn')}"
        )
    device = resolve_device(config.device)
    dataset = load_data(config)
    for folder, manifest in runs.items():
        check_same_dataset(manifest, dataset, folder)
    reports = Path(config.reports) / str(config.name)
    records = [_evaluate_run(folder, config, dataset, device, reports) for folder in runs]
    for path in write_tables(records, reports, train_command=train_command):
        log.info("wrote %s", path)
    return to_text(tables(records, train_command=train_command))


def reproduce(
    config: Config, train_command: str, *, norms: Sequence[str] = PAPER_NORMS, control: bool = True
) -> str:
    """Trains each norm and a plainly trained control, then evaluates them; returns the tables."""
    for norm in norms:
        train_run(replace(config, norm=norm))
    if control:
        train_run(replace(config, norm="bn", adversarial=False))
    return evaluate_runs(config, train_command)


def _evaluate_run(
    folder: Path, config: Config, dataset: Dataset, device: torch.device, reports: Path
) -> Record:
    model, manifest = load_model(folder, config.checkpoint)
    trained = Config.from_dict(manifest["config"])
    ids, test = subset(dataset.test, config.test_limit)
    protocol = _evaluation_protocol(config)
    identity = {
        "checkpoint": manifest["sha256"],
        "dataset": dataset.sha256,
        "protocol": fingerprint(protocol),
        "image_ids": ids.tolist(),
    }
    path = reports / "records" / f"{folder.name}-{config.checkpoint}.json"
    if path.exists():
        record = Record.load(path)
        if _identity(record) == identity:
            log.info("%s: evaluated before, in %s", folder.name, path)
            return record
    model.to(device)
    if trained.channels_last:
        to_channels_last(model)
    journal = path.with_suffix(".journal")
    start = time.perf_counter()
    verdicts = evaluate(
        model,
        test.images,
        test.labels,
        epsilon=float(config.epsilon),
        step_size=float(config.step_size),
        steps=STEPS,
        precision=config.eval_precision,
        serving=config.serving,
        autoattack=config.autoattack,
        seed=config.eval_seed,
        image_ids=ids,
        journal=journal,
        fingerprint=fingerprint(identity),
        progress=f"evaluating {folder.name}",
    )
    # Paths and devices are left out: they decide nothing, and a record may be published.
    settings = {key: value for key, value in trained.to_dict().items() if key not in WHERE}
    record = Record(
        name=str(config.name),
        norm=trained.norm,
        seed=trained.seed,
        adversarial=trained.adversarial,
        checkpoint={
            "tag": config.checkpoint,
            "epoch": manifest["epoch"],
            "epochs": trained.epochs,
            "sha256": manifest["sha256"],
        },
        config=settings,
        config_hash=fingerprint(settings),
        dataset={
            key: manifest["dataset"][key]
            for key in ("name", "sha256", "train_images", "test_images")
        },
        image_ids=ids.tolist(),
        protocol=protocol,
        protocol_hash=fingerprint(protocol),
        verdicts=verdicts,
        versions={name: version(name) for name in ("robustnorm", "torch", "numpy")}
        | {"python": platform.python_version()},
        device=device_name(device),
        wall_seconds=round(time.perf_counter() - start, 2),
    )
    record.save(path)
    journal.unlink(missing_ok=True)
    log.info("%s: %d images in %.0f s", folder.name, record.n, record.wall_seconds)
    return record


def _evaluation_protocol(config: Config) -> dict[str, Any]:
    return {
        "name": config.protocol,
        "threat_model": "linf",
        "epsilon": str(config.epsilon),
        "step_size": str(config.step_size),
        "steps": max(STEPS),
        "random_start": True,
        "seed": config.eval_seed,
        "chunk": CHUNK,
        "precision": "fp32",
        "search": f"folded, {config.eval_precision}",
        "serving": config.serving,
        "autoattack": config.autoattack,
        "train_steps": config.train_steps,
        "attack_norm_mode": config.attack_norm_mode,
    }


def _identity(record: Record) -> dict[str, Any]:
    return {
        "checkpoint": record.checkpoint["sha256"],
        "dataset": record.dataset["sha256"],
        "protocol": record.protocol_hash,
        "image_ids": list(record.image_ids),
    }


def _selection_score(config: Config, record: EpochRecord) -> float:
    """Returns what "best" is best at, on held-out images.

    Robust accuracy through "adv", or the only branch; for a plainly trained control, which has
    none, standard accuracy through "clean".
    """
    validation = record.validation
    if config.adversarial:
        return validation.get("adv", next(iter(validation.values()))).ra
    return validation.get("clean", next(iter(validation.values()))).sa


@contextmanager
def _progress_bar(config: Config, images: int, epochs_done: int) -> Iterator[tqdm[Any]]:
    """Opens a bar over the whole run; without a terminal the log's line per epoch is all."""
    per_epoch = steps_per_epoch(images, config.batch_size) * config.batch_size
    with (
        logging_redirect_tqdm([log]),
        tqdm(
            total=per_epoch * config.epochs,
            initial=per_epoch * epochs_done,
            unit="img",
            disable=None,
            smoothing=0.05,
        ) as bar,
    ):
        yield bar


def _epoch_line(config: Config, record: EpochRecord, seconds_left: float) -> str:
    adv = "" if record.adv_loss is None else f" adv {record.adv_loss:.3f}"
    validation = ", ".join(
        f"{branch} SA {100 * v.sa:.1f} RA {100 * v.ra:.1f}"
        for branch, v in record.validation.items()
    )
    return (
        f"epoch {record.epoch}/{config.epochs}  loss clean {record.clean_loss:.3f}{adv}  "
        f"validation {validation}  {record.images_per_second:.0f} img/s  "
        f"{tqdm.format_interval(round(seconds_left))} left"
    )


def _diverged(error: NonFiniteLossError, folder: Path, epochs_done: int) -> str:
    kept = (
        f"the checkpoint of epoch {epochs_done} in {folder} is good"
        if epochs_done
        else "no epoch was finished, so there is no checkpoint"
    )
    return (
        f"{error}; {kept}. Try a lower --learning_rate, --gradient_clipping 1, more "
        "--warmup_steps, or --precision fp32"
    )

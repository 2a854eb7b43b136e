"""Trains one norm, or continues its interrupted run."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import yaml
from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from robustnorm.config import Config
from robustnorm.data.batches import steps_per_epoch
from robustnorm.data.dataset import Dataset, Split, split_validation, subset
from robustnorm.errors import UsageError
from robustnorm.files import write_atomically
from robustnorm.runs import (
    augmentation,
    build_model,
    check_same_dataset,
    check_same_run,
    describe_dataset,
    device_name,
    load_data,
    place_model,
    resolve_device,
    run_folder,
)
from robustnorm.stopping import ShouldStop, never
from robustnorm.training.advprop import train
from robustnorm.training.checkpoint import (
    load_checkpoint,
    read_manifest,
    restore,
    save_checkpoint,
)
from robustnorm.training.metrics import TensorBoard
from robustnorm.training.progress import (
    EpochRecord,
    NonFiniteLossError,
    Position,
    TrainingStopped,
)

log = logging.getLogger("robustnorm")


def train_run(
    config: Config, config_path: str | None = None, *, should_stop: ShouldStop = never
) -> None:
    """Trains one norm under one seed, or continues its interrupted run.

    Args:
        config: The settings.
        config_path: Not used; every command takes one.
        should_stop: Asked after each step; the state is then saved, and the next call goes on.

    Raises:
        UsageError: When the folder holds imported weights or a run with other settings or data, or
            the loss diverges
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
    elif (read_manifest(folder, "best") or {}).get("imported"):
        raise UsageError(f"{folder} holds imported weights; choose another --name or --seed")
    device = resolve_device(config.device)
    dataset = load_data(config)
    if manifest is not None:
        check_same_dataset(manifest, dataset, folder)
    training, validation = split_validation(dataset.train, config.validation, config.train_limit)
    steps = steps_per_epoch(len(training), config.batch_size)
    info = describe_dataset(dataset, len(training))
    model = build_model(config, info)
    place_model(model, config, device)
    optimizer = torch.optim.SGD(
        model.parameters(),
        lr=config.learning_rate,
        momentum=config.momentum,
        weight_decay=config.weight_decay,
    )
    history: list[dict[str, Any]] = []
    best, position = -1.0, Position()
    if manifest is not None:
        restore(load_checkpoint(folder, "last"), model, optimizer)
        history, best = manifest["history"], manifest["best"]
        position = Position(manifest["epoch"], **manifest.get("within_epoch", {}))
    log.info(
        "%s: epochs %d to %d on %d images of %s, %s, into %s",
        config.run, position.epoch + 1, config.epochs, len(training), dataset.name, device, folder,
    )  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    settings = yaml.safe_dump(config.to_dict(), sort_keys=False)
    write_atomically(folder / "config.yaml", settings.encode())
    with (
        _progress_bar(config, steps, position) as bar,
        TensorBoard(folder, enabled=config.tensorboard, first_epoch=position.epoch) as board,
    ):
        records = train(
            model,
            training.to(device),
            validation.to(device),
            config=config,
            augmentation=augmentation(config, dataset),
            optimizer=optimizer,
            test=_followed(dataset, config.test_curve, device),
            position=position,
            bar=bar,
            should_stop=should_stop,
        )

        def manifest_now() -> dict[str, Any]:
            return {
                "epoch": len(history),
                "best": best,
                "config": config.to_dict(),
                "dataset": info,
                "history": history,
            }

        try:
            for record in records:
                history.append(record.to_dict() | {"device": device_name(device)})
                score = _selection_score(config, record)
                improved, best = score > best, max(best, score)
                content = manifest_now() | {"score": score}
                # "last" is saved last: a run killed before that repeats the epoch, to the same end.
                if record.epoch in config.keep_epochs:
                    save_checkpoint(folder, f"epoch{record.epoch}", model, content)
                if improved:
                    save_checkpoint(folder, "best", model, content)
                save_checkpoint(folder, "last", model, content, optimizer)
                lines = "".join(json.dumps(entry) + "\n" for entry in history)
                write_atomically(folder / "metrics.jsonl", lines.encode())
                board.write(record)
                log.info("%s: %s", config.run, _epoch_line(config, record))
        except TrainingStopped as stop:
            within = {"losses": stop.position.losses, "seconds": stop.position.seconds}
            content = manifest_now() | {"within_epoch": within}
            save_checkpoint(folder, "last", model, content, optimizer)
            log.info("%s: %s; the same command continues", config.run, stop)
        except NonFiniteLossError as error:
            raise UsageError(_diverged(error, folder, len(history))) from error


def _followed(dataset: Dataset, count: int, device: torch.device) -> Split | None:
    """Returns the test images that are followed during training."""
    return subset(dataset.test, count)[1].to(device) if count else None


def _selection_score(config: Config, record: EpochRecord) -> float:
    """Returns what "best" is best at, on held-out images.

    The worst robust accuracy through an adversarial branch, or the only branch's; for a plainly
    trained control, which has none, standard accuracy through "clean".
    """
    validation = record.validation
    only = next(iter(validation.values()))
    if config.adversarial:
        return min(validation.get(branch, only).ra for branch in config.adversarial_branches)
    return validation.get("clean", only).sa


@contextmanager
def _progress_bar(config: Config, steps: int, position: Position) -> Iterator[tqdm[Any]]:
    """Opens a bar over the whole run; without a terminal the log's line per epoch is all."""
    with (
        logging_redirect_tqdm([log]),
        tqdm(
            total=config.epochs * steps * config.batch_size,
            initial=(position.epoch * steps + position.step) * config.batch_size,
            unit="img",
            disable=None,
            smoothing=0.05,
        ) as bar,
    ):
        yield bar


def _epoch_line(config: Config, record: EpochRecord) -> str:
    left = (record.seconds + record.validation_seconds) * (config.epochs - record.epoch)
    adv = "" if record.adv_loss is None else f" adv {record.adv_loss:.3f}"
    validation = ", ".join(
        f"{branch} SA {100 * v.sa:.1f} RA {100 * v.ra:.1f}"
        for branch, v in record.validation.items()
    )
    return (
        f"epoch {record.epoch}/{config.epochs}  loss clean {record.clean_loss:.3f}{adv}  "
        f"validation {validation}  {record.images_per_second:.0f} img/s  "
        f"{tqdm.format_interval(round(left))} left"
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

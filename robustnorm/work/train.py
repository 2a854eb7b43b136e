"""Trains one norm, or continues its interrupted run."""

from __future__ import annotations

import logging
from contextlib import nullcontext
from pathlib import Path

import torch
from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from robustnorm.attacks.contract import seeded
from robustnorm.data.batches import steps_per_epoch
from robustnorm.data.dataset import Dataset, Split, split_validation, subset
from robustnorm.models.building import check_output
from robustnorm.models.layout import FRAGILE, must_be_contiguous
from robustnorm.models.resnet import LEAST_STD
from robustnorm.runs import Run
from robustnorm.runs.described import (
    build_model,
    describe_dataset,
    load_data,
    place_model,
)
from robustnorm.settings.config import Config
from robustnorm.system.device import device_name
from robustnorm.system.errors import OutOfMemoryError, UsageError
from robustnorm.system.files import check_free_space
from robustnorm.system.locks import exclusive
from robustnorm.system.memory import is_out_of_memory, peak_memory
from robustnorm.system.source import version_differences, versions
from robustnorm.system.stopping import ShouldStop, interrupted, never
from robustnorm.training import distributed
from robustnorm.training.advprop import train
from robustnorm.training.metrics import TensorBoard
from robustnorm.training.origin import origin
from robustnorm.training.progress import (
    EpochRecord,
    NonFiniteLossError,
    Position,
    TrainingStopped,
)
from robustnorm.training.saving import Saver

log = logging.getLogger("robustnorm")


def train_run(config: Config, *, should_stop: ShouldStop = never) -> None:
    """Trains one norm under one seed, or continues its interrupted run.

    Args:
        config: The settings.
        should_stop: Called as in ``train``.

    Raises:
        UsageError: When the folder holds imported weights or a run with other settings or data,
            another process trains there, the loss diverges (the last good checkpoint is kept), or
            the processes that torchrun started cannot share the work.
        DiskError: When there is too little disk space, before or during training; saved files are
            kept.
        OutOfMemoryError: When memory does not suffice for a step; saved files are kept.
        DataError, CheckpointError: When the data or the checkpoint is unusable.
        Stopped: When a signal arrives; the state is saved, and the next call continues.
    """
    folder = config.folder
    with distributed.process_group(config.device) as device:
        if distributed.rank():
            log.setLevel(logging.ERROR)
        distributed.per_process(config.batch_size)  # raises when it cannot be divided
        run = Run.find(folder, "last")
        if run is not None:
            run.check_settings(config)
            if run.epoch == config.epochs:
                log.info("%s: already trained, in %s", config.run, folder)
                return
        elif (best := Run.find(folder, "best")) is not None and best.imported:
            raise UsageError(f"{folder} holds imported weights; choose another --name or --seed")
        # Random numbers drawn by a user's layers then depend on the seed too.
        generator = torch.Generator().manual_seed(config.seed)
        with nullcontext() if distributed.rank() else exclusive(folder):
            # Before seeding: importing a package that reads data may draw random numbers.
            with distributed.one_per_node_first():
                dataset = load_data(config)
            splits = split_validation(dataset.train, config.validation, config.train_limit)
            with seeded(generator, device):
                saver, position = _start(config, dataset, len(splits[0]), device)
                try:
                    _train(saver, position, dataset, splits, device, should_stop)
                except (MemoryError, RuntimeError) as error:
                    if not is_out_of_memory(error):
                        raise
                    raise OutOfMemoryError(_too_large(config, device)) from error


def _check_trainable(dataset: Dataset, normalization: str) -> None:
    """Raises a UsageError when a network could not learn anything from the data."""
    classes = len(set(dataset.train.labels.tolist()))
    if classes < 2:
        raise UsageError(
            f"training needs images of at least 2 classes, but {dataset.name} has {classes}, so "
            "that every prediction would be right; add a folder for each further class"
        )
    if normalization == "dataset" and min(dataset.std) < LEAST_STD:
        channel = dataset.std.index(min(dataset.std))
        raise UsageError(
            f"channel {channel} of the training images of {dataset.name} is constant (standard "
            f"deviation {dataset.std[channel]:.1g}); dividing by that would turn a change of one "
            "grey level into thousands; leave the channel out, or set --input_normalization none"
        )


def _start(
    config: Config, dataset: Dataset, train_images: int, device: torch.device
) -> tuple[Saver, Position]:
    """Builds network and optimizer in their initial state, or restores an interrupted run.

    Raises:
        UsageError, CheckpointError, DiskError: As ``train_run``.
    """
    _check_trainable(dataset, config.input_normalization)
    folder = config.folder
    info = describe_dataset(dataset, train_images)
    model = build_model(config, info)
    check_output(model, config.network, info, only_logits=True)
    place_model(model, device, channels_last=config.channels_last)
    if config.channels_last and must_be_contiguous(model, dataset.train.images):
        raise UsageError(FRAGILE + "set --channels_last false, or --width 16 or more")
    optimizer = torch.optim.SGD(
        model.parameters(),
        lr=config.learning_rate,
        momentum=config.momentum,
        weight_decay=config.weight_decay,
    )
    saver, position = Saver(folder, config, info, model, optimizer), Position()
    if (run := Run.find(folder, "last")) is not None:  # again, now that the folder is locked
        run.check_data(dataset)
        position = saver.restore(run)
        if run.processes != distributed.world_size():
            log.warning(
                "continued with %d process(es) after %d; without --sync_norm true each now "
                "normalizes over a different number of images",
                distributed.world_size(), run.processes,
            )  # fmt: skip
        here = versions() if "versions" in run.manifest else {}  # old runs name none
        if changed := version_differences(run.manifest.get("versions", {}), here):
            log.warning("continued by other versions (%s): the last bits may differ", changed)
    check_free_space(folder, saver.bytes_needed())
    saver.save_settings()
    starts = distributed.gather((dataset.sha256[:12], position.epoch, position.step))
    if len(set(starts)) > 1:
        raise UsageError(
            "all processes must read the same data and continue from the same state, got (data, "
            f"epochs, steps) {', '.join(map(str, sorted(set(starts))))}; every node needs the same "
            f"--data, and all of them must share the disk of {folder}"
        )
    return saver, position


def _train(
    saver: Saver,
    position: Position,
    dataset: Dataset,
    splits: tuple[Split, Split],
    device: torch.device,
    should_stop: ShouldStop,
) -> None:
    """Trains to the end or until asked to stop; saves, logs and shows progress."""
    config, folder, (training, validation) = saver.config, saver.folder, splits
    steps = steps_per_epoch(len(training), config.batch_size)
    count = config.test_curve
    followed = subset(dataset.test, count)[1].to(device) if count else None
    log.info(
        "%s: epochs %d to %d on %d images of %s, %s, into %s",
        config.run, position.epoch + 1, config.epochs, len(training), dataset.name, device, folder,
    )  # fmt: skip
    with (
        logging_redirect_tqdm([log]),
        tqdm(  # over the whole run; without a terminal only the log's line per epoch is shown
            total=config.epochs * steps * config.batch_size,
            initial=(position.epoch * steps + position.step) * config.batch_size,
            unit="img",
            disable=True if distributed.rank() else None,
            smoothing=0.05,
        ) as bar,
        TensorBoard(
            folder,
            enabled=config.tensorboard and distributed.rank() == 0,
            first_epoch=position.epoch,
        ) as board,
    ):
        records = train(
            saver.model,
            training.to(device),
            validation.to(device),
            config=config,
            augmentation=dataset.augmentation.changed(
                config.padding, config.flip, config.crop_area
            ),
            optimizer=saver.optimizer,
            test=followed,
            position=position,
            bar=bar,
            should_stop=should_stop,
            save_is_due=saver.is_due,
            save=saver.save_within,
        )
        try:
            for record in records:
                saver.save_epoch(record, device_name(device))
                board.write(record)
                log.info("%s: %s", config.run, _epoch_line(record, config.epochs))
        except TrainingStopped as stop:
            saver.save_within(stop.position)
            # Only after saving: torchrun ends all processes when the first one ends.
            if distributed.any_process(interrupted(should_stop))[0]:
                raise  # a signal ends the caller too
            log.info("%s: %s; the same command continues", config.run, stop)
        except NonFiniteLossError as error:
            step_of_run = (error.epoch - 1) * steps + error.step - 1
            begin = origin(saver.model, saver.optimizer, error.batch, config, step_of_run)
            raise UsageError(_diverged(error, begin, folder, len(saver.history))) from error


def _epoch_line(record: EpochRecord, epochs: int) -> str:
    left = (record.seconds + record.validation_seconds) * (epochs - record.epoch)
    adv = "" if record.adv_loss is None else f" adv {record.adv_loss:.3f}"
    validation = ", ".join(
        f"{branch} SA {100 * v.sa:.1f} RA {100 * v.ra:.1f}"
        for branch, v in record.validation.items()
    )
    return (
        f"epoch {record.epoch}/{epochs}  loss clean {record.clean_loss:.3f}{adv}  "
        f"validation {validation}  {record.images_per_second:.0f} img/s  "
        f"{tqdm.format_interval(round(left))} left"
    )


def _diverged(error: NonFiniteLossError, begin: str, folder: Path, epochs_done: int) -> str:
    kept = (
        f"the checkpoint of epoch {epochs_done} in {folder} is intact"
        if epochs_done
        else "no epoch was finished, so there is no checkpoint"
    )
    return (
        f"{error}; {begin}; {kept}. Try a lower --learning_rate, "
        "--gradient_clipping 1, more --warmup_steps, or --precision fp32"
    )


def _too_large(config: Config, device: torch.device) -> str:
    smaller = [f"--batch_size {config.batch_size // 2}"] if config.batch_size > 1 else []
    if config.precision == "fp32":
        smaller.append("--precision bf16")
    if config.width > 1:
        smaller.append(f"--width {config.width // 2}")
    return (
        f"out of memory during training, which used up to {peak_memory(device)}; what was saved in "
        f"{config.folder} is intact. Try {' or '.join(smaller[:2])} under another --name: these "
        "change the results, so they are not applied automatically"
    )

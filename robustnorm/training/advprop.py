"""AdvProp's training loop: each epoch takes its steps, then evaluates held-out images."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from robustnorm.data.batches import epoch_batches, steps_per_epoch
from robustnorm.data.dataset import Augmentation, Split
from robustnorm.evaluation.attack import attack_chunk
from robustnorm.evaluation.batching import images_at_once
from robustnorm.evaluation.chunks import Outcome, whole_chunks
from robustnorm.evaluation.search import Search, branches
from robustnorm.norms.synchronized import synchronize
from robustnorm.records.journal import Key
from robustnorm.settings.config import Config
from robustnorm.system.stopping import ShouldStop, Stopped, interrupted, never
from robustnorm.training import distributed
from robustnorm.training.finite import FiniteSteps, reading_waits
from robustnorm.training.losses import AdvProp
from robustnorm.training.progress import (
    BranchValidation,
    EpochRecord,
    Position,
    TrainingStopped,
)
from robustnorm.training.schedule import learning_rate

# Minimum seconds between updates of the progress line: reading the losses waits for the device.
_REFRESH = 0.5


def train(
    model: nn.Module,
    split: Split,
    validation: Split,
    *,
    config: Config,
    augmentation: Augmentation,
    optimizer: torch.optim.Optimizer,
    test: Split | None = None,
    position: Position | None = None,
    bar: tqdm[Any] | None = None,
    should_stop: ShouldStop = never,
    save_is_due: Callable[[], bool] = lambda: False,
    save: Callable[[Position], None] = lambda _: None,
) -> Iterator[EpochRecord]:
    """Trains epoch by epoch; yields a record after each, with the model in evaluation mode.

    Saving, logging and stopping belong to the caller. All randomness follows from (seed, epoch,
    step or image), so a run continued from ``position`` with the same model and optimizer state
    repeats the uninterrupted one.

    In a process group each process trains on its share of every batch and averages its gradients
    with the others; records, losses and positions are the same in all processes.

    Args:
        model: On the training device.
        split: Training images, on the same device.
        validation: Held-out images, on the same device.
        config: The settings.
        augmentation: Augments the training images.
        optimizer: For the model's parameters; its learning rate is set at each step.
        test: Test images to evaluate after each epoch, like the held-out ones, on the same device.
        position: Where to continue; the beginning by default.
        bar: Progress bar to update, in images.
        should_stop: Called before the first step, after each step, and between two chunks of a
            validation. Only a signal stops before the first step or within a validation; an
            interrupted validation is repeated when the run continues.
        save_is_due: Called after each step.
        save: Called after a step when a save is due, with the position to continue from.

    Raises:
        TrainingStopped: When ``should_stop`` asks for it; carries the position to continue from.
        NonFiniteLossError: When a loss or the gradient is not finite; model and optimizer are then
            in their state before that step.
        Stopped: When a signal arrives before the first step.
    """
    distributed.per_process(config.batch_size)  # raises when it cannot be divided
    steps = steps_per_epoch(len(split), config.batch_size)
    if config.sync_norm and distributed.world_size() > 1:
        synchronize(model)
    # The compiled model is an nn.Module too, although torch's annotations do not say so.
    forward = cast(nn.Module, torch.compile(model)) if config.compile else model
    advprop = AdvProp(forward, config)
    step_losses = distributed.data_parallel(advprop)
    search = Search.of(config, (config.validation_steps,))
    position = position or Position()
    validation_seconds = 0.0
    if distributed.any_process(interrupted(should_stop))[0]:
        raise Stopped("stopped before the first step")
    for epoch in range(position.epoch, config.epochs):
        here = position if epoch == position.epoch else Position(epoch)
        clock = time.perf_counter()
        model.train()
        # Losses stay on the device: reading them waits for it.
        losses = torch.zeros(steps, 2, device=split.images.device)
        losses[: here.step] = torch.tensor(here.losses).view(-1, 2)
        take = partial(
            _train_epoch, advprop, step_losses, split, augmentation, optimizer, epoch, losses
        )
        finite = FiniteSteps(model, optimizer, epoch)
        if reading_waits(losses.device):
            finite = FiniteSteps(model, optimizer, epoch, take_again=partial(take, finite))
        for step in take(finite, here.step, bar=bar):
            # The last step is followed by a validation, which a time budget cannot interrupt.
            stop, due = distributed.any_process(
                should_stop(validation_seconds if step == steps else 0.0), save_is_due()
            )
            if stop or due:
                finite.check()
                distributed.average_statistics(model)
                seconds = here.seconds + time.perf_counter() - clock
                reached = Position(epoch, losses[:step].tolist(), seconds)
                if stop:
                    raise TrainingStopped(reached)
                save(reached)
        finite.check()
        clean_loss, adv_loss = losses.mean(0).tolist()
        seconds = here.seconds + time.perf_counter() - clock
        distributed.average_statistics(model)
        model.eval()
        clock = time.perf_counter()
        try:
            validated = validate(model, validation, search, should_stop)
            followed = {} if test is None else validate(model, test, search, should_stop)
        except Stopped as stopped:
            raise TrainingStopped(Position(epoch, losses.tolist(), seconds)) from stopped
        validation_seconds = time.perf_counter() - clock
        yield EpochRecord(
            epoch=epoch + 1,
            learning_rate=learning_rate(config, (epoch + 1) * steps - 1, steps),
            clean_loss=clean_loss,
            adv_loss=adv_loss if config.adversarial else None,
            validation=validated,
            test=followed,
            seconds=round(seconds, 2),
            validation_seconds=round(validation_seconds, 2),
            images_per_second=round(steps * config.batch_size / seconds, 1),
        )


def step_generator(seed: int, step: int, device: torch.device) -> torch.Generator:
    """Returns the generator for the attack's random start at a step, counted over the whole run."""
    state = np.random.SeedSequence((seed, step)).generate_state(1, np.uint64)[0] >> 1
    return torch.Generator(device).manual_seed(int(state))


def _train_epoch(
    advprop: AdvProp,
    step_losses: nn.Module,
    split: Split,
    augmentation: Augmentation,
    optimizer: torch.optim.Optimizer,
    epoch: int,
    losses: Tensor,
    finite: FiniteSteps,
    first_step: int,
    stop_step: int | None = None,
    bar: tqdm[Any] | None = None,
) -> Iterator[int]:
    """Takes the steps of an epoch from ``first_step`` to before ``stop_step``; stores their losses.

    Yields after each step how many steps of the epoch are done.
    """
    config, device, steps = advprop.config, split.images.device, len(losses)
    batches = epoch_batches(
        split,
        batch_size=config.batch_size,
        seed=config.seed,
        epoch=epoch,
        augmentation=augmentation,
        channels_last=config.channels_last,
        first_step=first_step,
        share_of_process=distributed.share_of_process,
    )
    shown = time.perf_counter()
    for step, batch in zip(range(first_step, stop_step or steps), batches, strict=False):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(config, epoch * steps + step, steps)
        finite.begin(step)
        generator = step_generator(config.seed, epoch * steps + step, device)
        adv_images = advprop.adversarial_images(batch.images, batch.labels, generator)
        clean_loss: Tensor
        adv_loss: Tensor | None
        clean_loss, adv_loss = step_losses(batch.images, batch.labels, adv_images)
        gradient = advprop.backward(clean_loss, adv_loss, optimizer)
        # In place: stores the losses of the whole batch.
        distributed.average(clean_loss.detach())
        if adv_loss is not None:
            distributed.average(adv_loss.detach())
        finite.inspect(step, batch, clean_loss, adv_loss, gradient)
        optimizer.step()
        losses[step, 0] = clean_loss.detach()
        if adv_loss is not None:
            losses[step, 1] = adv_loss.detach() / len(config.adversarial_branches)
        finite.end()
        if bar is None:
            yield step + 1
            continue
        bar.update(config.batch_size)
        if time.perf_counter() - shown > _REFRESH or step == steps - 1:
            shown = time.perf_counter()
            clean, adv = losses[step].tolist()
            bar.set_description(f"epoch {epoch + 1}/{config.epochs}", refresh=False)
            shown_losses = f"clean {clean:.3f}"
            shown_losses += f", adv {adv:.3f}" if config.adversarial else ""
            bar.set_postfix_str(shown_losses, refresh=False)
        yield step + 1


def validate(
    model: nn.Module, split: Split, search: Search, should_stop: ShouldStop = never
) -> dict[str, BranchValidation]:
    """Returns accuracies and mean losses of each branch on images not used for training.

    Args:
        model: In evaluation mode.
        split: The images.
        search: The attack of each branch, with one number of PGD steps.
        should_stop: Called before each chunk; only a signal stops the validation.

    Raises:
        Stopped: When a signal arrives.
    """
    sums: list[dict[Key, tuple[float, float]]] = []  # per chunk: correct, loss
    attacked = branches(model)
    everything = (split.images, split.labels, torch.arange(len(split)))
    processes, rank = distributed.world_size(), distributed.rank()
    # The same in all processes, and small enough for the memory of each.
    at_once = min(distributed.gather(images_at_once(attacked, *everything, search)))
    at_once = min(at_once, whole_chunks(math.ceil(len(split) / processes)))
    chunks = torch.split(torch.arange(len(split)), at_once)
    for first in range(0, len(chunks), processes):  # one chunk per process
        if distributed.any_process(interrupted(should_stop))[0]:
            raise Stopped("stopped during a validation")
        outcomes: Mapping[Key, Outcome] = {}
        if first + rank < len(chunks):
            ids = chunks[first + rank]
            outcomes = attack_chunk(attacked, split.images[ids], split.labels[ids], ids, search)
        sums += distributed.gather(
            {key: (o.correct.sum().item(), o.loss.sum().item()) for key, o in outcomes.items()}
        )
    means = {
        key: [sum(chunk[key][i] for chunk in sums if chunk) / len(split) for i in range(2)]
        for key in sums[0]
    }
    validation = {}
    for branch in (branch.name for branch in attacked):
        sa, clean_loss = means[Key("none", "final", branch, branch)]
        ra, adv_loss = means[Key(f"pgd-{max(search.steps)}", "final", branch, branch)]
        validation[branch] = BranchValidation(sa, ra, clean_loss, adv_loss)
    return validation

"""AdvProp's training loop: each epoch takes its steps, then measures held-out images."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from robustnorm.config import Config
from robustnorm.data.batches import epoch_batches, steps_per_epoch
from robustnorm.data.dataset import Augmentation, Split
from robustnorm.evaluation.journal import Key
from robustnorm.evaluation.search import CHUNK, Outcome, Search, attack_chunk, branches
from robustnorm.norms.synchronized import synchronize
from robustnorm.stopping import ShouldStop, never
from robustnorm.training import distributed
from robustnorm.training.losses import StepLosses, adversarial_images
from robustnorm.training.progress import (
    BranchValidation,
    EpochRecord,
    NonFiniteLossError,
    Position,
    TrainingStopped,
)
from robustnorm.training.schedule import learning_rate

# The progress line reads the losses, and so waits for the device, at most this often (seconds).
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

    Saving, logging and stopping belong to the caller. Nothing is random but what follows from
    (seed, epoch, step or image), so that a run continued from ``position`` with the model and
    optimizer as they were repeats the uninterrupted one.

    In a process group each process learns from its part of every batch and averages gradients with
    the others; records, losses and positions are the same on all of them.

    Args:
        model: On the device where it trains.
        split: Training images, on the same device.
        validation: Held-out images, on the same device.
        config: The settings.
        augmentation: Of the training images.
        optimizer: Over the model's parameters; its learning rate is set at each step.
        test: Test images to follow as the held-out ones are, on the same device; none by default.
        position: Where the run stands; at its beginning by default.
        bar: Progress in images, advanced and annotated if given.
        should_stop: Asked after each step.
        save_is_due: Asked after each step.
        save: Called after a step when it is due, with the position to continue from.

    Raises:
        TrainingStopped: When ``should_stop`` says so, with the position to continue from.
        NonFiniteLossError: When a loss is not finite; the model is then not usable.
    """
    distributed.per_process(config.batch_size)  # refuses what does not divide
    if config.sync_norm and distributed.world_size() > 1:
        synchronize(model)
    # An nn.Module too, which torch's annotations do not say.
    forward = cast(nn.Module, torch.compile(model)) if config.compile else model
    step_losses = distributed.data_parallel(StepLosses(forward, config))
    position = position or Position()
    steps = steps_per_epoch(len(split), config.batch_size)
    validation_seconds = 0.0
    for epoch in range(position.epoch, config.epochs):
        here = position if epoch == position.epoch else Position(epoch)
        clock = time.perf_counter()
        model.train()
        # Losses stay on the device: reading them waits for it.
        losses = torch.zeros(steps, 2, device=split.images.device)
        losses[: here.step] = torch.tensor(here.losses).view(-1, 2)
        for step in _train_epoch(
            forward,
            step_losses,
            split,
            config,
            augmentation,
            optimizer,
            epoch,
            here.step,
            losses,
            bar,
        ):
            # After the last step comes a validation, which nothing interrupts.
            stop, due = distributed.any_process(
                should_stop(validation_seconds if step == steps else 0.0), save_is_due()
            )
            if stop or due:
                _check_finite(losses[:step], epoch)
                distributed.average_statistics(model)
                seconds = here.seconds + time.perf_counter() - clock
                reached = Position(epoch, losses[:step].tolist(), seconds)
                if stop:
                    raise TrainingStopped(reached)
                save(reached)
        clean_loss, adv_loss = losses.mean(0).tolist()
        seconds = here.seconds + time.perf_counter() - clock
        distributed.average_statistics(model)
        model.eval()
        clock = time.perf_counter()
        validated = validate(model, validation, config)
        followed = {} if test is None else validate(model, test, config)
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


def _step_seed(seed: int, step: int) -> int:
    """Returns the seed of the attack's start at a step of the run."""
    return int(np.random.SeedSequence((seed, step)).generate_state(1, np.uint64)[0] >> 1)


def _check_finite(losses: Tensor, epoch: int) -> None:
    finite = losses.isfinite().all(1)
    if not finite.all():
        raise NonFiniteLossError(epoch + 1, int(finite.logical_not().nonzero()[0].item()) + 1)


def _train_epoch(
    model: nn.Module,
    step_losses: nn.Module,
    split: Split,
    config: Config,
    augmentation: Augmentation,
    optimizer: torch.optim.Optimizer,
    epoch: int,
    first_step: int,
    losses: Tensor,
    bar: tqdm[Any] | None,
) -> Iterator[int]:
    """Takes the steps of an epoch from ``first_step`` on, writes down their losses.

    Yields the number of steps done after each.
    """
    device, steps = split.images.device, len(losses)
    batches = epoch_batches(
        split,
        batch_size=config.batch_size,
        seed=config.seed,
        epoch=epoch,
        augmentation=augmentation,
        channels_last=config.channels_last,
        first_step=first_step,
        own_part=distributed.own_part,
    )
    shown = time.perf_counter()
    for step, batch in enumerate(batches, first_step):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(config, epoch * steps + step, steps)
        generator = torch.Generator(device).manual_seed(
            _step_seed(config.seed, epoch * steps + step)
        )
        adv_images = adversarial_images(model, batch.images, batch.labels, config, generator)
        clean_loss: Tensor
        adv_loss: Tensor | None
        clean_loss, adv_loss = step_losses(batch.images, batch.labels, adv_images)
        adv_branches = len(config.adversarial_branches)
        loss = clean_loss if adv_loss is None else clean_loss + adv_loss
        if config.loss == "mean" and adv_loss is not None:
            loss = loss / (1 + adv_branches)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        if config.gradient_clipping is not None:
            nn.utils.clip_grad_norm_(model.parameters(), config.gradient_clipping)
        optimizer.step()
        losses[step, 0] = clean_loss.detach()
        if adv_loss is not None:
            losses[step, 1] = adv_loss.detach() / adv_branches
        distributed.average(losses[step])
        if bar is not None:
            bar.update(config.batch_size)
        if time.perf_counter() - shown > _REFRESH or step == steps - 1:
            shown = time.perf_counter()
            _check_finite(losses[: step + 1], epoch)
            if bar is not None:
                clean, adv = losses[step].tolist()
                bar.set_description(f"epoch {epoch + 1}/{config.epochs}", refresh=False)
                shown_losses = f"clean {clean:.3f}"
                shown_losses += f", adv {adv:.3f}" if config.adversarial else ""
                bar.set_postfix_str(shown_losses, refresh=False)
        yield step + 1


def validate(model: nn.Module, split: Split, config: Config) -> dict[str, BranchValidation]:
    """Returns accuracies and mean losses of each branch on images that are not learned from.

    Args:
        model: In evaluation mode.
        split: The images.
        config: Gives the attack of each branch, ``validation_steps`` PGD steps.
    """
    sums: list[dict[Key, tuple[float, float]]] = []  # of each chunk: correct, loss
    attacked = branches(model)
    search = Search(
        float(config.attack.epsilon),
        float(config.attack.step_size),
        (config.validation_steps,),
        config.attack.threat_model,
        seed=config.eval_seed,
        own=config.branches,
    )
    chunks = torch.split(torch.arange(len(split)), CHUNK)
    processes, own = distributed.world_size(), distributed.rank()
    for first in range(0, len(chunks), processes):  # each process a chunk
        outcomes: Mapping[Key, Outcome] = {}
        if first + own < len(chunks):
            part = chunks[first + own]
            outcomes = attack_chunk(attacked, split.images[part], split.labels[part], part, search)
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
        ra, adv_loss = means[Key(f"pgd-{config.validation_steps}", "final", branch, branch)]
        validation[branch] = BranchValidation(sa, ra, clean_loss, adv_loss)
    return validation

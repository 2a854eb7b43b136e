"""AdvProp: each step learns from clean images and from adversarial ones, each on its branch."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import tqdm

from attacks.contract import require_generator, unchanged
from attacks.pgd import pgd_step
from attacks.threat_model import THREAT_MODELS
from robustnorm.config import Config
from robustnorm.data.batches import epoch_batches, steps_per_epoch
from robustnorm.data.dataset import Augmentation, Split
from robustnorm.evaluation.journal import Key
from robustnorm.evaluation.search import CHUNK, Search, attack_chunk, branches
from robustnorm.routing import route
from robustnorm.stopping import ShouldStop, Stopped, interrupted, never
from robustnorm.training.finite import FiniteSteps, gradient_norm, reading_waits
from robustnorm.training.progress import (
    BranchValidation,
    EpochRecord,
    Position,
    TrainingStopped,
)
from robustnorm.training.schedule import learning_rate

# The progress line reads the losses, and so waits for the device, at most this often (seconds).
_REFRESH = 0.5


def advprop_losses(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    config: Config,
    generator: torch.Generator | None = None,
) -> tuple[Tensor, Tensor | None]:
    """Returns the clean and the adversarial loss of one batch, ready for one backward.

    Adversarial images are made for each adversarial branch, "adv" by default, by its own attack
    through it, with the statistics that ``config.attack_norm_mode`` names; then one clean forward
    and one forward of each adversarial branch, normalized by its own batch. On a network without
    branches all go through the same layers.

    Args:
        model: In train mode.
        images: Float (N, C, H, W) in [0, 1].
        labels: int64 (N,).
        config: The settings of loss, attack and precision.
        generator: Of the attack's random start; None when ``config.adversarial`` is False.

    Returns:
        Two scalars; the second, the sum over the adversarial branches, is None when
        ``config.adversarial`` is False.

    References:
        Xie et al., arXiv:1911.09665; Gong et al., arXiv:2102.11382, Eq. 7.
    """

    def loss(branch: str, inputs: Tensor) -> Tensor:
        with route(model, branch), autocast(config, inputs.device):
            logits = model(inputs)
        return F.cross_entropy(logits.float(), labels, label_smoothing=config.label_smoothing)

    if not config.adversarial:
        return loss("clean", images), None
    adv_images = {
        branch: _attack(model, branch, images, labels, config, generator)
        for branch in config.adversarial_branches
    }
    clean_loss = loss("clean", images)
    adv_losses = [loss(branch, inputs) for branch, inputs in adv_images.items()]
    return clean_loss, sum(adv_losses[1:], adv_losses[0])


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
        should_stop: Asked after each step; a signal is also heeded before the first, and between
            two chunks of a validation, which is repeated when the run is continued.
        save_is_due: Asked after each step.
        save: Called after a step when it is due, with the position to continue from.

    Raises:
        TrainingStopped: When ``should_stop`` says so, with the position to continue from.
        NonFiniteLossError: When a loss or the gradient is not finite; model and optimizer are then
            as they were before that step.
        Stopped: When a signal came before the first step.
    """
    # An nn.Module too, which torch's annotations do not say.
    forward = cast(nn.Module, torch.compile(model)) if config.compile else model
    position = position or Position()
    steps = steps_per_epoch(len(split), config.batch_size)
    validation_seconds = 0.0
    if interrupted(should_stop):
        raise Stopped("stopped before the first step")
    for epoch in range(position.epoch, config.epochs):
        here = position if epoch == position.epoch else Position(epoch)
        clock = time.perf_counter()
        model.train()
        # Losses stay on the device: reading them waits for it.
        losses = torch.zeros(steps, 2, device=split.images.device)
        losses[: here.step] = torch.tensor(here.losses).view(-1, 2)
        take = partial(_train_epoch, forward, split, config, augmentation, optimizer, epoch, losses)
        finite = FiniteSteps(model, optimizer, epoch)
        if reading_waits(losses.device):
            finite = FiniteSteps(model, optimizer, epoch, take_again=partial(take, finite))
        for step in take(finite, here.step, bar=bar):
            # After the last step comes a validation, which no budget interrupts.
            stop = should_stop(validation_seconds if step == steps else 0.0)
            if stop or save_is_due():
                finite.check()
                seconds = here.seconds + time.perf_counter() - clock
                reached = Position(epoch, losses[:step].tolist(), seconds)
                if stop:
                    raise TrainingStopped(reached)
                save(reached)
        finite.check()
        clean_loss, adv_loss = losses.mean(0).tolist()
        seconds = here.seconds + time.perf_counter() - clock
        model.eval()
        clock = time.perf_counter()
        try:
            validated = validate(model, validation, config, should_stop)
            followed = {} if test is None else validate(model, test, config, should_stop)
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
    """Returns the generator of the attack's start at a step of the run."""
    state = np.random.SeedSequence((seed, step)).generate_state(1, np.uint64)[0] >> 1
    return torch.Generator(device).manual_seed(int(state))


def backward(
    clean_loss: Tensor,
    adv_loss: Tensor | None,
    *,
    config: Config,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
) -> Tensor:
    """Leaves the gradient of a step in the parameters; returns its norm.

    Args:
        clean_loss: From ``advprop_losses``.
        adv_loss: Likewise.
        config: The settings of loss and clipping.
        model: The network.
        optimizer: Over its parameters.

    Returns:
        A scalar, before any clipping; nothing waits for it.
    """
    loss = clean_loss if adv_loss is None else clean_loss + adv_loss
    if config.loss == "mean" and adv_loss is not None:
        loss = loss / (1 + len(config.adversarial_branches))
    optimizer.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]
    if config.gradient_clipping is not None:
        return nn.utils.clip_grad_norm_(model.parameters(), config.gradient_clipping)
    return gradient_norm(model)


def _train_epoch(
    model: nn.Module,
    split: Split,
    config: Config,
    augmentation: Augmentation,
    optimizer: torch.optim.Optimizer,
    epoch: int,
    losses: Tensor,
    finite: FiniteSteps,
    first_step: int,
    stop_step: int | None = None,
    bar: tqdm[Any] | None = None,
) -> Iterator[int]:
    """Takes the steps of an epoch from ``first_step`` on, writes down their losses.

    Up to before ``stop_step``, where it is given.

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
    )
    shown = time.perf_counter()
    for step, batch in zip(range(first_step, stop_step or steps), batches, strict=False):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(config, epoch * steps + step, steps)
        finite.begin(step)
        generator = step_generator(config.seed, epoch * steps + step, device)
        clean_loss, adv_loss = advprop_losses(
            model, batch.images, batch.labels, config=config, generator=generator
        )
        gradient = backward(clean_loss, adv_loss, config=config, model=model, optimizer=optimizer)
        finite.judge(step, batch, clean_loss, adv_loss, gradient)
        optimizer.step()
        losses[step, 0] = clean_loss.detach()
        if adv_loss is not None:
            losses[step, 1] = adv_loss.detach() / len(config.adversarial_branches)
        finite.end()
        if bar is None:
            yield step + 1
            continue
        bar.update(len(batch.labels))
        if time.perf_counter() - shown > _REFRESH or step == steps - 1:
            shown = time.perf_counter()
            clean, adv = losses[step].tolist()
            bar.set_description(f"epoch {epoch + 1}/{config.epochs}", refresh=False)
            shown_losses = f"clean {clean:.3f}"
            shown_losses += f", adv {adv:.3f}" if config.adversarial else ""
            bar.set_postfix_str(shown_losses, refresh=False)
        yield step + 1


def validate(
    model: nn.Module, split: Split, config: Config, should_stop: ShouldStop = never
) -> dict[str, BranchValidation]:
    """Returns accuracies and mean losses of each branch on images that are not learned from.

    Args:
        model: In evaluation mode.
        split: The images.
        config: Gives the attack of each branch, ``validation_steps`` PGD steps.
        should_stop: A signal that it tells of is heeded before each chunk.

    Raises:
        Stopped: When a signal came.
    """
    totals: dict[Key, list[float]] = {}
    attacked = branches(model)
    search = Search(
        float(config.attack.epsilon),
        float(config.attack.step_size),
        (config.validation_steps,),
        config.attack.threat_model,
        seed=config.eval_seed,
        own=config.branches,
    )
    for part in torch.split(torch.arange(len(split)), CHUNK):
        if interrupted(should_stop):
            raise Stopped("stopped in a validation")
        outcomes = attack_chunk(attacked, split.images[part], split.labels[part], part, search)
        for key, outcome in outcomes.items():
            total = totals.setdefault(key, [0.0, 0.0])
            total[0] += outcome.correct.sum().item()
            total[1] += outcome.loss.sum().item()
    means = {key: [total / len(split) for total in totals[key]] for key in totals}
    validation = {}
    for branch in (branch.name for branch in attacked):
        sa, clean_loss = means[Key("none", "final", branch, branch)]
        ra, adv_loss = means[Key(f"pgd-{config.validation_steps}", "final", branch, branch)]
        validation[branch] = BranchValidation(sa, ra, clean_loss, adv_loss)
    return validation


def autocast(config: Config, device: torch.device) -> torch.autocast:
    """Returns the precision of a training forward: bfloat16 where asked for, else float32."""
    return torch.autocast(device.type, torch.bfloat16, enabled=config.precision == "bf16")


@contextmanager
def eval_mode(model: nn.Module) -> Iterator[None]:
    """Puts ``model`` in evaluation mode for the block, then each module back as it was."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


def _attack(
    model: nn.Module,
    branch: str,
    images: Tensor,
    labels: Tensor,
    config: Config,
    generator: torch.Generator | None,
) -> Tensor:
    """Makes a branch's images as ``pgd`` does, without the checks that wait for the device."""
    attack = config.adversarial_branches[branch]
    ball, epsilon = THREAT_MODELS[attack.threat_model], float(attack.epsilon)
    statistics: dict[str, Callable[[nn.Module], AbstractContextManager[None]]] = {
        "batch": unchanged,
        "batch-update": lambda _: nullcontext(),
        "eval": eval_mode,
    }
    with (
        statistics[config.attack_norm_mode](model),
        route(model, branch),
        autocast(config, images.device),
    ):
        adv_images = ball.random_start(images, epsilon, require_generator(generator))
        for _ in range(config.train_steps):
            adv_images, _ = pgd_step(
                model,
                adv_images,
                images,
                labels,
                epsilon=epsilon,
                step_size=float(attack.step_size),
                threat_model=attack.threat_model,
            )
    return adv_images

"""AdvProp: each step learns from clean images and from adversarial ones, each on its branch."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
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
from robustnorm.stopping import ShouldStop, never
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
        should_stop: Asked after each step.
        save_is_due: Asked after each step.
        save: Called after a step when it is due, with the position to continue from.

    Raises:
        TrainingStopped: When ``should_stop`` says so, with the position to continue from.
        NonFiniteLossError: When a loss is not finite; the model is then not usable.
    """
    # An nn.Module too, which torch's annotations do not say.
    forward = cast(nn.Module, torch.compile(model)) if config.compile else model
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
            forward, split, config, augmentation, optimizer, epoch, here.step, losses, bar
        ):
            # After the last step comes a validation, which nothing interrupts.
            stop = should_stop(validation_seconds if step == steps else 0.0)
            if stop or save_is_due():
                _check_finite(losses[:step], epoch)
                seconds = here.seconds + time.perf_counter() - clock
                reached = Position(epoch, losses[:step].tolist(), seconds)
                if stop:
                    raise TrainingStopped(reached)
                save(reached)
        clean_loss, adv_loss = losses.mean(0).tolist()
        seconds = here.seconds + time.perf_counter() - clock
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
    )
    shown = time.perf_counter()
    for step, batch in enumerate(batches, first_step):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(config, epoch * steps + step, steps)
        generator = torch.Generator(device).manual_seed(
            _step_seed(config.seed, epoch * steps + step)
        )
        clean_loss, adv_loss = advprop_losses(
            model, batch.images, batch.labels, config=config, generator=generator
        )
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
        if bar is not None:
            bar.update(len(batch.labels))
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

"""AdvProp: each step learns from clean images and from adversarial ones, each on its branch."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict, dataclass
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
from robustnorm.training.schedule import learning_rate

# The progress line reads the losses, and so waits for the device, at most this often (seconds).
_REFRESH = 0.5


class NonFiniteLossError(RuntimeError):
    """A loss became infinite or not a number.

    Args:
        epoch: Epoch of the step, from 1.
        step: First step of that epoch with such a loss, from 1.
    """

    def __init__(self, epoch: int, step: int) -> None:
        super().__init__(f"the loss is not finite since step {step} of epoch {epoch}")
        self.epoch = epoch
        self.step = step


@dataclass(frozen=True)
class BranchValidation:
    """Validation through one branch: accuracies and mean losses, all fractions and nats."""

    sa: float
    ra: float
    clean_loss: float
    adv_loss: float


@dataclass(frozen=True)
class EpochRecord:
    """What one epoch did; the losses are means over its training images."""

    epoch: int
    learning_rate: float
    clean_loss: float
    adv_loss: float | None
    validation: dict[str, BranchValidation]
    test: dict[str, BranchValidation]  # empty where no test images were followed
    seconds: float
    images_per_second: float

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def advprop_losses(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    config: Config,
    generator: torch.Generator | None = None,
) -> tuple[Tensor, Tensor | None]:
    """Returns the clean and the adversarial loss of one batch, ready for one backward.

    Adversarial images are made through the branch "adv" with the statistics that
    ``config.attack_norm_mode`` names; then one clean forward and one adversarial forward, each
    normalized by its own batch. On a network without branches both go through the same layers.

    Args:
        model: In train mode.
        images: Float (N, C, H, W) in [0, 1].
        labels: int64 (N,).
        config: The settings of loss, attack and precision.
        generator: Of the attack's random start; None when ``config.adversarial`` is False.

    Returns:
        Two scalars; the second is None when ``config.adversarial`` is False.

    References:
        Xie et al., arXiv:1911.09665; Gong et al., arXiv:2102.11382, Eq. 7.
    """

    def loss(branch: str, inputs: Tensor) -> Tensor:
        with route(model, branch), autocast(config, inputs.device):
            logits = model(inputs)
        return F.cross_entropy(logits.float(), labels, label_smoothing=config.label_smoothing)

    if not config.adversarial:
        return loss("clean", images), None
    adv_images = _attack(model, images, labels, config, generator)
    return loss("clean", images), loss("adv", adv_images)


def train(
    model: nn.Module,
    split: Split,
    validation: Split,
    *,
    config: Config,
    augmentation: Augmentation,
    optimizer: torch.optim.Optimizer,
    test: Split | None = None,
    first_epoch: int = 0,
    bar: tqdm[Any] | None = None,
) -> Iterator[EpochRecord]:
    """Trains epoch by epoch; yields a record after each, with the model in evaluation mode.

    Saving, logging and stopping belong to the caller. Nothing is random but what follows from
    (seed, epoch, step or image), so that a run continued from ``first_epoch`` with the model and
    optimizer as they were repeats the uninterrupted one.

    Args:
        model: On the device where it trains.
        split: Training images, on the same device.
        validation: Held-out images, on the same device.
        config: The settings.
        augmentation: Of the training images.
        optimizer: Over the model's parameters; its learning rate is set at each step.
        test: Test images to follow as the held-out ones are, on the same device; none by default.
        first_epoch: Epochs already done.
        bar: Progress in images, advanced and annotated if given.

    Raises:
        NonFiniteLossError: When a loss is not finite; the model is then not usable.
    """
    # An nn.Module too, which torch's annotations do not say.
    forward = cast(nn.Module, torch.compile(model)) if config.compile else model
    for epoch in range(first_epoch, config.epochs):
        start = time.perf_counter()
        model.train()
        rate, losses = _train_epoch(forward, split, config, augmentation, optimizer, epoch, bar)
        seconds = time.perf_counter() - start
        model.eval()
        yield EpochRecord(
            epoch=epoch + 1,
            learning_rate=rate,
            clean_loss=losses[0],
            adv_loss=losses[1] if config.adversarial else None,
            validation=validate(model, validation, config),
            test={} if test is None else validate(model, test, config),
            seconds=round(seconds, 2),
            images_per_second=round(
                steps_per_epoch(len(split), config.batch_size) * config.batch_size / seconds, 1
            ),
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
    bar: tqdm[Any] | None,
) -> tuple[float, list[float]]:
    """Returns the last learning rate and the mean clean and adversarial loss."""
    device = split.images.device
    steps = steps_per_epoch(len(split), config.batch_size)
    history = torch.zeros(steps, 2, device=device)  # stays there: reading it waits for the device
    batches = epoch_batches(
        split,
        batch_size=config.batch_size,
        seed=config.seed,
        epoch=epoch,
        augmentation=augmentation,
        channels_last=config.channels_last,
    )
    shown = time.perf_counter()
    for step, batch in enumerate(batches):
        rate = learning_rate(config, epoch * steps + step, steps)
        for group in optimizer.param_groups:
            group["lr"] = rate
        generator = torch.Generator(device).manual_seed(
            _step_seed(config.seed, epoch * steps + step)
        )
        clean_loss, adv_loss = advprop_losses(
            model, batch.images, batch.labels, config=config, generator=generator
        )
        loss = clean_loss if adv_loss is None else clean_loss + adv_loss
        if config.loss == "mean" and adv_loss is not None:
            loss = loss / 2
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        if config.gradient_clipping is not None:
            nn.utils.clip_grad_norm_(model.parameters(), config.gradient_clipping)
        optimizer.step()
        history[step, 0] = clean_loss.detach()
        if adv_loss is not None:
            history[step, 1] = adv_loss.detach()
        if bar is not None:
            bar.update(len(batch.labels))
        if time.perf_counter() - shown > _REFRESH or step == steps - 1:
            shown = time.perf_counter()
            _check_finite(history[: step + 1], epoch)
            if bar is not None:
                clean, adv = history[step].tolist()
                bar.set_description(f"epoch {epoch + 1}/{config.epochs}", refresh=False)
                losses = f"clean {clean:.3f}" + (f", adv {adv:.3f}" if config.adversarial else "")
                bar.set_postfix_str(losses, refresh=False)
    return rate, history.mean(0).tolist()


def validate(model: nn.Module, split: Split, config: Config) -> dict[str, BranchValidation]:
    """Returns accuracies and mean losses of each branch on images that are not learned from.

    Args:
        model: In evaluation mode.
        split: The images.
        config: Gives the attack, ``validation_steps`` PGD steps.
    """
    totals: dict[Key, list[float]] = {}
    attacked = branches(model)
    search = Search(
        float(config.epsilon),
        float(config.step_size),
        (config.validation_steps,),
        config.threat_model,
        seed=config.eval_seed,
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
    images: Tensor,
    labels: Tensor,
    config: Config,
    generator: torch.Generator | None,
) -> Tensor:
    """Makes adversarial images as ``pgd`` does, without the checks that wait for the device."""
    ball, epsilon = THREAT_MODELS[config.threat_model], float(config.epsilon)
    statistics: dict[str, Callable[[nn.Module], AbstractContextManager[None]]] = {
        "batch": unchanged,
        "batch-update": lambda _: nullcontext(),
        "eval": eval_mode,
    }
    with (
        statistics[config.attack_norm_mode](model),
        route(model, "adv"),
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
                step_size=float(config.step_size),
                threat_model=config.threat_model,
            )
    return adv_images

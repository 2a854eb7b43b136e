"""The training steps of a conditional GAN; saving and measuring belong to the caller."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from robustnorm.applications.gan.losses import discriminator_loss, generator_loss
from robustnorm.applications.gan.state import State
from robustnorm.data.batches import Batch, epoch_batches, steps_per_epoch
from robustnorm.data.dataset import Augmentation, Split
from robustnorm.norms.routing import route
from robustnorm.settings.gan import GanSettings
from robustnorm.system.errors import UsageError


def train(
    state: State, split: Split, config: GanSettings, *, seed: int, num_classes: int, first: int = 0
) -> Iterator[int]:
    """Trains step by step; yields the number of steps done, ``first`` + 1 to ``config.steps``.

    A step is ``config.discriminator_steps`` steps of the discriminator and one of the generator.
    All randomness follows from (seed, step), so a run continued from a saved state repeats the
    uninterrupted one bit for bit. Labels of generated images are uniform over the classes.

    Args:
        state: In train mode; changed in place.
        split: Real images of size ``config.image_size``, on the device of the state.
        config: Settings of the run.
        seed: Seed of the order of images, latent vectors and labels.
        num_classes: Number of classes.
        first: Number of steps already done.

    Raises:
        DataError: When a batch is larger than the data.
        UsageError: When a loss is not finite.
    """
    generator, discriminator = state.generator, state.discriminator
    for_generator, for_discriminator = state.optimizers
    weights = list(generator.parameters())
    device = split.images.device
    real = _real_batches(split, config, seed, first * config.discriminator_steps)
    for step in range(first, config.steps):
        random = _random(seed, step)

        def latents(n: int, random: torch.Generator = random) -> tuple[Tensor, Tensor]:
            values = torch.randn(n, config.latent_dim, generator=random)
            labels = torch.randint(num_classes, (n,), generator=random)
            return values.to(device), labels.to(device)

        for group in (*for_generator.param_groups, *for_discriminator.param_groups):
            group["lr"] = learning_rate(config, step)
        for _ in range(config.discriminator_steps):
            batch = next(real)
            values, labels = latents(config.batch_size)
            with torch.no_grad(), route(generator, labels):
                fakes = generator(values)
            # The discriminator treats images independently: one pass serves real and fake ones.
            scores = discriminator(
                torch.cat([2 * batch.images - 1, fakes]), torch.cat([batch.labels, labels])
            )
            loss = discriminator_loss(*scores.chunk(2))
            for_discriminator.zero_grad()
            torch.autograd.backward(loss)
            for_discriminator.step()
        state.losses[1, step] = loss.detach()
        values, labels = latents(config.generator_batch)
        with route(generator, labels):
            fakes = generator(values)
        loss = generator_loss(discriminator(fakes, labels))
        for_generator.zero_grad()
        torch.autograd.backward(loss, inputs=weights)
        for_generator.step()
        state.losses[0, step] = loss.detach()
        state.update_average(config.average if step >= config.average_from else 0.0)
        if not state.losses[:, step].isfinite().all():
            raise UsageError(
                f"the losses are not finite at step {step + 1}; train from the start with a lower "
                "--learning_rate"
            )
        yield step + 1


def learning_rate(config: GanSettings, step: int) -> float:
    """Returns the learning rate of a step, counted from 0.

    Examples:
        >>> config = GanSettings(steps=4, learning_rate=0.4, decay="linear")
        >>> [round(learning_rate(config, step), 1) for step in range(4)]
        [0.4, 0.3, 0.2, 0.1]
    """
    left = 1 - step / config.steps if config.decay == "linear" else 1
    return config.learning_rate * left


def window_means(losses: Tensor, done: int, windows: int = 200) -> list[dict[str, float]]:
    """Returns the losses of the steps done, averaged over windows.

    Args:
        losses: ``State.losses``.
        done: Number of steps done.
        windows: Largest number of windows in a run.

    Returns:
        For each complete window ``step`` (its last), ``generator`` and ``discriminator``.
    """
    length = math.ceil(losses.shape[1] / windows)
    return [
        {"step": end, "generator": mean[0], "discriminator": mean[1]}
        for end in range(length, done + 1, length)
        for mean in [losses[:, end - length : end].double().mean(1).tolist()]
    ]


def _real_batches(split: Split, config: GanSettings, seed: int, first: int) -> Iterator[Batch]:
    """Yields batches of real images without augmentation, from batch ``first`` on."""
    epoch, step = divmod(first, steps_per_epoch(len(split), config.batch_size))
    while True:
        yield from epoch_batches(
            split,
            batch_size=config.batch_size,
            seed=seed,
            epoch=epoch,
            augmentation=Augmentation(),
            first_step=step,
        )
        epoch, step = epoch + 1, 0


def _random(seed: int, step: int) -> torch.Generator:
    # The third number keeps these draws independent of those for the order of the images.
    state = np.random.SeedSequence((seed, step, 1)).generate_state(1, np.uint64)[0]
    return torch.Generator().manual_seed(int(state >> 1))

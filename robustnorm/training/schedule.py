"""Learning rate schedules."""

from __future__ import annotations

from robustnorm.settings.config import Config


def learning_rate(config: Config, step: int, steps_per_epoch: int) -> float:
    """Returns the learning rate of a step, which depends only on the step and the settings.

    ``milestones``: linear warm-up from ``warmup_from`` over ``warmup_steps`` steps, then
    ``learning_rate``, multiplied by ``decay`` at each milestone (in epochs). ``one-cycle``: linear
    rise from zero to ``learning_rate`` at the fraction ``peak`` of the run, then linear fall to
    zero.

    Args:
        config: The settings.
        step: Counted from 0 over the whole run.
        steps_per_epoch: Number of steps per epoch.

    References:
        Gong et al., arXiv:2102.11382, release; Smith & Topin, arXiv:1708.07120; Wong et al.,
        Fast is better than free, arXiv:2001.03994.

    Examples:
        >>> config = Config(epochs=10, learning_rate=0.2, schedule="one-cycle", peak=0.5)
        >>> [round(learning_rate(config, step, 1), 2) for step in range(10)]
        [0.04, 0.08, 0.12, 0.16, 0.2, 0.17, 0.13, 0.1, 0.07, 0.03]
    """
    if config.schedule == "one-cycle":
        # Steps 1..total of total + 1: no step has a learning rate of zero.
        total = config.epochs * steps_per_epoch
        peak = max(1, round(config.peak * total))
        fraction = min((step + 1) / peak, (total - step) / (total + 1 - peak))
        return config.learning_rate * fraction
    if step < config.warmup_steps:
        rise = (config.learning_rate - config.warmup_from) * step / config.warmup_steps
        return config.warmup_from + rise
    epoch = step // steps_per_epoch
    drops = sum(epoch >= milestone for milestone in config.milestones)
    return config.learning_rate * config.decay**drops

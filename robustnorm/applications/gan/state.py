"""The state of a GAN's training: networks, running mean, optimizers, losses."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from robustnorm.settings.gan import GanSettings


class State(nn.Module):
    """Networks, the generator's running mean, both optimizers and the losses so far.

    The optimizers' state and the losses are buffers, so that a checkpoint of this module and the
    number of steps done are all that it takes to continue.

    Args:
        generator: On the training device.
        discriminator: On the training device.
        config: Settings of the run.

    Attributes:
        average: A copy of the generator with the running mean of its parameters, in evaluation
            mode.
        losses: Losses of generator and discriminator, (2, steps); 0 for later steps.
    """

    losses: Tensor

    def __init__(self, generator: nn.Module, discriminator: nn.Module, config: GanSettings) -> None:
        super().__init__()
        self.generator = generator
        self.discriminator = discriminator
        self.average = copy.deepcopy(generator).eval().requires_grad_(False)
        device = next(generator.parameters()).device
        self.register_buffer("losses", torch.zeros(2, config.steps, device=device))
        self.optimizers = [_adam(part, config) for part in (generator, discriminator)]
        for optimizer, name in zip(self.optimizers, ("generator", "discriminator"), strict=True):
            for i, parameter in enumerate(optimizer.param_groups[0]["params"]):
                for key, value in optimizer.state[parameter].items():
                    self.register_buffer(f"adam_{name}_{i}_{key}", value)

    @torch.no_grad()
    def update_average(self, weight: float) -> None:
        """Updates the running mean with ``weight`` for itself and 1 - ``weight`` for the generator.

        Buffers, such as the norms' running statistics, are copied.
        """
        pairs = zip(self.average.parameters(), self.generator.parameters(), strict=True)
        for mean, value in pairs:
            mean.lerp_(value, 1 - weight)
        buffers = zip(self.average.buffers(), self.generator.buffers(), strict=True)
        for kept, current in buffers:
            kept.copy_(current)

    def train(self, mode: bool = True) -> State:
        super().train(mode)
        self.average.eval()
        return self


def _adam(network: nn.Module, config: GanSettings) -> torch.optim.Adam:
    """Returns an optimizer whose state is allocated before the first step."""
    optimizer = torch.optim.Adam(network.parameters(), lr=config.learning_rate, betas=config.betas)
    for parameter in network.parameters():
        optimizer.state[parameter] = {
            "step": torch.zeros(()),
            "exp_avg": torch.zeros_like(parameter),
            "exp_avg_sq": torch.zeros_like(parameter),
        }
    return optimizer

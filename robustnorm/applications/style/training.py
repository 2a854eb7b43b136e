"""The training loop of style transfer; saving belongs to the caller."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from robustnorm.applications.style.losses import losses, measure_network
from robustnorm.applications.style.network import StyleNetwork
from robustnorm.settings.style import StyleSettings
from robustnorm.system.errors import UsageError
from robustnorm.system.stopping import ShouldStop, Stopped

Batch = tuple[Tensor, Tensor]


@dataclass
class Progress:
    """Position and curves of a training, as JSON values.

    Attributes:
        step: Number of steps done.
        since: Sums of content and style loss since the last point of the curve.
        curve: Points (step, content loss, style loss), means over the steps since the last point.
        validation: One dictionary per validation, with "step" and the measures.
        seconds: Time spent.
    """

    step: int = 0
    since: list[float] = field(default_factory=lambda: [0.0, 0.0])
    curve: list[list[float]] = field(default_factory=list)
    validation: list[dict[str, float]] = field(default_factory=list)
    seconds: float = 0.0

    def to_dict(self) -> dict[str, Any]:
        """Returns JSON values for ``Progress(**values)``."""
        return asdict(self)


def make_optimizer(network: StyleNetwork, settings: StyleSettings) -> torch.optim.Adam:
    """Returns Adam for the parameters of decoder and norm."""
    trained = [parameter for parameter in network.parameters() if parameter.requires_grad]
    return torch.optim.Adam(trained, lr=settings.learning_rate)


def train(
    network: StyleNetwork,
    optimizer: torch.optim.Optimizer,
    batches: Iterator[Batch],
    pairs: Sequence[Batch],
    progress: Progress,
    settings: StyleSettings,
    *,
    content_target: str,
    save: Callable[[], None],
    should_stop: ShouldStop,
    name: str = "",
) -> None:
    """Trains from ``progress`` to the end; updates network and progress in place.

    Args:
        network: On the training device.
        optimizer: From ``make_optimizer``.
        batches: Batches from the step of ``progress`` on.
        pairs: The validation pairs, on the training device.
        progress: Updated at every step.
        settings: Settings of the figure.
        content_target: "moving" or "detached".
        save: Called after each validation, every ``settings.save_minutes``, and before stopping.
        should_stop: Called before each step.
        name: Name of the run, for the progress bar.

    Raises:
        Stopped: When ``should_stop`` asks for it; the state is saved.
        UsageError: When a loss is no longer finite.
    """
    _reopen(progress, settings)
    device = next(network.decoder.parameters()).device
    begun, saved = time.monotonic() - progress.seconds, time.monotonic()
    bar = tqdm(total=settings.steps, initial=progress.step, desc=name, unit="step", disable=None)
    with bar:
        while progress.step < settings.steps:
            if should_stop(0.0):
                progress.seconds = time.monotonic() - begun
                save()
                raise Stopped(f"{name}: stopped after step {progress.step}")
            content, style = next(batches)
            rate = settings.learning_rate / (1 + settings.learning_rate_decay * progress.step)
            for group in optimizer.param_groups:
                group["lr"] = rate
            bf16 = settings.precision == "bf16"
            with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
                found = losses(
                    network, content.to(device), style.to(device), content_target=content_target
                )
            total = settings.content_weight * found.content + settings.style_weight * found.style
            optimizer.zero_grad()
            torch.autograd.backward(total)
            optimizer.step()
            progress.step += 1
            _add_losses(progress, found.content, found.style, settings)
            bar.update()
            if progress.step % settings.validate_every == 0 or progress.step == settings.steps:
                measures = measure_network(network, pairs)._asdict()
                progress.validation.append({"step": float(progress.step), **measures})
                bar.set_postfix(content=f"{measures['content']:.3f}", gamma=measures["gamma"])
            elif time.monotonic() - saved < 60 * settings.save_minutes:
                continue
            progress.seconds = time.monotonic() - begun
            save()
            saved = time.monotonic()


def _reopen(progress: Progress, settings: StyleSettings) -> None:
    """Removes the last points of a shorter training where a longer one has none."""
    if progress.curve and (steps := int(progress.curve[-1][0]) % settings.log_every):
        _, *means = progress.curve.pop()
        progress.since = [steps * value for value in means]
    if progress.validation and progress.validation[-1]["step"] % settings.validate_every:
        progress.validation.pop()


def _add_losses(
    progress: Progress, content: Tensor, style: Tensor, settings: StyleSettings
) -> None:
    """Adds a step's losses to the curve.

    Raises:
        UsageError: When one is not finite.
    """
    values = torch.stack([content.detach().double(), style.detach().double()]).tolist()
    progress.since = [a + b for a, b in zip(progress.since, values, strict=True)]
    if not all(map(torch.isfinite, torch.tensor(progress.since))):
        raise UsageError(
            f"the loss is not finite at step {progress.step}; what was saved before is intact. Try "
            "a lower --learning_rate or --precision fp32"
        )
    every = settings.log_every
    if progress.step % every == 0 or progress.step == settings.steps:
        steps = (progress.step - 1) % every + 1
        progress.curve.append([progress.step, *(value / steps for value in progress.since)])
        progress.since = [0.0, 0.0]

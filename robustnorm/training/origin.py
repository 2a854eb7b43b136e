"""Repeats a training step to find the first tensor that is not finite."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from robustnorm.data.batches import Batch
from robustnorm.settings.config import Config
from robustnorm.training import distributed
from robustnorm.training.advprop import step_generator
from robustnorm.training.finite import non_finite
from robustnorm.training.losses import AdvProp


def origin(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    batch: Batch,
    config: Config,
    step_of_run: int,
) -> str:
    """Repeats a step without its update and describes the first tensor that is not finite.

    In a process group every process must call it with its share of the batch; all return the same.

    Args:
        model: In its state before the step; its gradients and running statistics are changed.
        optimizer: For its parameters; left unchanged.
        batch: The batch of the step.
        config: Settings of the run.
        step_of_run: Number of steps before this one, over all epochs.

    Returns:
        A description such as "it begins with the output of conv1, step 2 of the attack on branch
        adv".
    """
    generator = step_generator(config.seed, step_of_run, batch.images.device)
    with _non_finite_tensors(model.train(), config, batch.images) as found:
        advprop = AdvProp(model, config)
        losses = advprop.losses(batch.images, batch.labels, generator)
        gradient = advprop.backward(*losses, optimizer)
    everywhere = distributed.gather((found[:1], non_finite(*losses, gradient)))
    for first, _ in everywhere:
        if first:
            return f"it begins with {first[0]}"
    if any(what for _, what in everywhere):
        return "the norm of the gradient, or the sum of the losses, is too large for float32"
    return "the repeated step is finite, since sums on this device vary in their last bits"


@contextmanager
def _non_finite_tensors(model: nn.Module, config: Config, images: Tensor) -> Iterator[list[str]]:
    """Collects descriptions of the tensors that are not finite in the block, in order."""
    found: list[str] = []
    passes = iter(_passes(config))
    now = ["images of the batch"]

    def note(tensor: object, name: str) -> None:
        if isinstance(tensor, Tensor) and not tensor.isfinite().all():
            found.append(name)

    def before_pass(_module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        now[0] = next(passes)
        note(inputs[0], f"the images passed to the network, {now[0]}")

    def after(name: str, _module: nn.Module, _inputs: Any, output: object) -> None:
        note(output, f"the output of {name}, {now[0]}")

    def gradient(name: str, parameter: Tensor) -> None:
        note(parameter.grad, f"the gradient of {name}")

    state = (*model.named_parameters(), *model.named_buffers(), ("the images", images))
    for name, tensor in state:
        note(tensor, f"{name}, before the step")
    handles = [model.register_forward_pre_hook(before_pass)]
    for name, module in model.named_modules():
        if name:  # not the whole network; hooks of inner modules run before those of outer ones
            handles.append(module.register_forward_hook(partial(after, name)))
    for name, parameter in model.named_parameters():
        hook = partial(gradient, name)
        handles.append(parameter.register_post_accumulate_grad_hook(hook))  # type: ignore[no-untyped-call]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


def _passes(config: Config) -> Iterator[str]:
    """Yields the purpose of each forward pass of a step, in the order of ``AdvProp.losses``."""
    adversarial = config.adversarial_branches if config.adversarial else {}
    for branch in adversarial:
        for step in range(1, config.train_steps + 1):
            yield f"step {step} of the attack on branch {branch}"
    yield "clean images"
    for branch in adversarial:
        yield f"adversarial images of branch {branch}"

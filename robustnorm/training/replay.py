"""A training step that was not finite: kept in a file, taken again, followed tensor by tensor."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from robustnorm.data.batches import steps_per_epoch
from robustnorm.runs.checkpoint import Checkpoint, state_tensors
from robustnorm.runs.run import build_saved, place_model
from robustnorm.settings.config import Config
from robustnorm.system.errors import RefusedFileError
from robustnorm.system.files import write_atomically
from robustnorm.system.untrusted import parse_json
from robustnorm.training import distributed
from robustnorm.training.advprop import backward, step_generator
from robustnorm.training.finite import non_finite
from robustnorm.training.losses import advprop_losses
from robustnorm.training.progress import NonFiniteLossError

_REPLAY = "robustnorm replay"


@dataclass(frozen=True)
class Replayed:
    """What a step came to: what is not finite, "" if all is, and where that began."""

    what: str
    where: str


def write_replay(
    folder: Path,
    error: NonFiniteLossError,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    config: Config,
    data: dict[str, Any],
) -> Path:
    """Writes a step that was not finite, with the state before it.

    Of many processes rank 0 writes the batch of all, which a replay normalizes together.

    Args:
        folder: Of the run.
        error: Of the step.
        model: As it was before the step.
        optimizer: Likewise.
        config: Settings of the run.
        data: From ``describe_dataset``.

    Returns:
        The file: weights, buffers, momentum, images and labels as safetensors, all else as JSON in
        its metadata.

    Raises:
        DiskError: When it cannot be written.
    """
    path = folder / "replay" / f"epoch{error.epoch}-step{error.step}.safetensors"
    batch = {"images": error.batch.images, "labels": error.batch.labels}
    tensors = state_tensors(model, optimizer) | {
        name: torch.cat(distributed.gather(value.detach().cpu().contiguous()))
        for name, value in batch.items()
    }
    steps = steps_per_epoch(data["train_images"], config.batch_size)
    step = {"epoch": error.epoch, "step": error.step, "not_finite": error.what}
    step |= {"seed": config.seed, "step_of_run": (error.epoch - 1) * steps + error.step - 1}
    content = step | {"config": config.to_dict(), "dataset": data}
    if distributed.rank() == 0:
        path.parent.mkdir(exist_ok=True)
        write_atomically(path, save(tensors, {_REPLAY: json.dumps(content)}))
    distributed.wait_for_all()
    return path


def read_replay(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Returns what ``write_replay`` wrote: the JSON values, and the tensors.

    Raises:
        RefusedFileError: When it is another file.
    """
    try:
        with safe_open(path, "pt") as file:
            content = parse_json((file.metadata() or {})[_REPLAY])
            return content, {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, KeyError, ValueError, SafetensorError) as error:
        raise RefusedFileError(
            f"{path} is not a replay file ({error}); give one that a diverged training wrote, "
            "checkpoints/<config>/<run>/replay/<step>.safetensors"
        ) from error


def replay(content: dict[str, Any], tensors: dict[str, Tensor], device: torch.device) -> Replayed:
    """Takes the step of a replay file again, without its update.

    Args:
        content: From ``read_replay``.
        tensors: Likewise.
        device: Where.

    Raises:
        CheckpointError: When the tensors do not fit the network.
    """
    config = Config.from_dict(content["config"])
    model = build_saved(Checkpoint(tensors, content, ""))
    place_model(model, config, device)
    optimizer = torch.optim.SGD(model.parameters())
    images, labels = tensors["images"].to(device), tensors["labels"].to(device)
    if config.channels_last:
        images = images.contiguous(memory_format=torch.channels_last)
    generator = step_generator(config.seed, content["step_of_run"], device)
    with _followed(model.train(), config, images) as found:
        losses = advprop_losses(model, images, labels, config=config, generator=generator)
        gradient = backward(*losses, config=config, model=model, optimizer=optimizer)
    what = non_finite(*losses, gradient)
    end = "the norm of the gradient, or the sum of the losses, is too large for float32"
    return Replayed(what, (found[0] if found else end) if what else "")


@contextmanager
def _followed(model: nn.Module, config: Config, images: Tensor) -> Iterator[list[str]]:
    """Collects what is not finite within the block, in the order in which it comes up."""
    found: list[str] = []
    passes = iter(_passes(config))
    now = ["images of the batch"]

    def note(tensor: object, name: str) -> None:
        if isinstance(tensor, Tensor) and not tensor.isfinite().all():
            found.append(name)

    def before_pass(_module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        now[0] = next(passes)
        note(inputs[0], f"the images given to the network, {now[0]}")

    def after(name: str, _module: nn.Module, _inputs: Any, output: object) -> None:
        note(output, f"the output of {name}, {now[0]}")

    def gradient(name: str, parameter: Tensor) -> None:
        note(parameter.grad, f"the gradient of {name}")

    state = (*model.named_parameters(), *model.named_buffers(), ("the images", images))
    for name, tensor in state:
        note(tensor, f"{name}, before the step")
    handles = [model.register_forward_pre_hook(before_pass)]
    for name, module in model.named_modules():
        if name:  # inner modules answer before those around them
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
    """Yields what each forward pass of a step is for, in their order in ``advprop_losses``."""
    adversarial = config.adversarial_branches if config.adversarial else {}
    for branch in adversarial:
        for step in range(1, config.train_steps + 1):
            yield f"step {step} of the attack on branch {branch}"
    yield "clean images"
    for branch in adversarial:
        yield f"adversarial images of branch {branch}"

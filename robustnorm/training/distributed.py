"""Training one network with many processes: their group, and what they average.

Every function also works in a single process, where it does nothing. In a group all processes must
call it at the same point, since each call exchanges messages.
"""

from __future__ import annotations

import inspect
import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from robustnorm.system.errors import UsageError

_T = TypeVar("_T")

# A process that receives nothing for this long fails; a peer that died is noticed at once.
_TIMEOUT = timedelta(minutes=30)


def launched_processes() -> int:
    """Returns the number of processes that torchrun started, or 1."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def own_device(name: str) -> str:
    """Returns the name of this process's device; with many processes each gets a different GPU.

    Args:
        name: ``"auto"``, ``"cuda"`` or another device.

    Raises:
        UsageError: When several processes would share one GPU.
    """
    if launched_processes() == 1 or name == "cpu":
        return name
    if name.startswith("cuda:"):
        raise UsageError(
            f"each of {launched_processes()} processes takes a GPU of its own, got --device {name};"
            " use --device cuda, and CUDA_VISIBLE_DEVICES to choose among GPUs"
        )
    if name == "cuda" or (name == "auto" and torch.cuda.is_available()):
        return f"cuda:{os.environ['LOCAL_RANK']}"
    return name


@contextmanager
def process_group(device: torch.device) -> Iterator[None]:
    """Joins the group of the processes that torchrun started, for the block.

    Tensors on a GPU are sent by NCCL, those on the CPU by Gloo. Without torchrun there is no group;
    a group that is already open is used and left open.

    Args:
        device: Device of this process.
    """
    if launched_processes() == 1 or _in_group():
        yield
        return
    if device.type == "cuda":
        torch.cuda.set_device(device)
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    dist.init_process_group(backend, timeout=_TIMEOUT)
    yield
    # Not after an error, when the others may never reach this point.
    dist.destroy_process_group()


def world_size() -> int:
    """Returns the number of processes in the group, 1 without one."""
    return dist.get_world_size() if _in_group() else 1


def rank() -> int:
    """Returns the rank of this process; only rank 0 writes, logs and shows progress."""
    return dist.get_rank() if _in_group() else 0


def per_process(batch_size: int) -> int:
    """Returns the number of images of a batch that each process gets.

    Raises:
        UsageError: When the batch cannot be divided equally.
    """
    if batch_size % world_size():
        nearest = max(batch_size - batch_size % world_size(), world_size())
        raise UsageError(
            f"--batch_size counts the images of all processes and must divide by their number, got "
            f"{batch_size} for {world_size()}; try {nearest}"
        )
    return batch_size // world_size()


def share_of_process(batch: Tensor) -> Tensor:
    """Returns this process's share of a batch (N, ...), (N / world size, ...)."""
    return batch.chunk(world_size())[rank()]


def any_process(*flags: bool) -> list[bool]:
    """Returns for each flag whether any process sets it."""
    if not _in_group():
        return list(flags)
    together = torch.tensor(flags, dtype=torch.int32)
    dist.all_reduce(together, dist.ReduceOp.MAX)
    return [bool(flag) for flag in together.tolist()]


def wait_for_all() -> None:
    """Returns once all processes have called it."""
    any_process(False)


@contextmanager
def one_a_node_first() -> Iterator[None]:
    """Lets one process per node run the block first, so that the others can read what it writes."""
    first = not _in_group() or os.environ.get("LOCAL_RANK", "0") == "0"
    if not first:
        wait_for_all()
    try:
        yield
    finally:
        if first:
            wait_for_all()


def gather(value: _T) -> list[_T]:
    """Returns the values of all processes, by rank."""
    if not _in_group():
        return [value]
    values: list[Any] = [None] * world_size()
    dist.all_gather_object(values, value)
    return values


def average(values: Tensor) -> None:
    """Replaces ``values`` by their mean over the processes, in place, without waiting."""
    if _in_group():
        dist.all_reduce(values)
        values /= world_size()


@torch.no_grad()
def average_statistics(model: nn.Module) -> None:
    """Replaces running statistics by their means over the processes, in place.

    Running means, variances and second moments are averaged per branch, which gives the running
    averages over all processes' batches. Counters are equal already.

    Args:
        model: Its floating-point buffers named ``running_...`` are averaged.
    """
    if not _in_group():
        return
    running = [
        buffer
        for name, buffer in model.named_buffers()
        if name.rpartition(".")[2].startswith("running_") and buffer.is_floating_point()
    ]
    if running:
        together = torch.cat([buffer.flatten() for buffer in running])
        average(together)
        parts = torch.split(together, [buffer.numel() for buffer in running])
        for buffer, part in zip(running, parts, strict=True):
            buffer.copy_(part.view_as(buffer))


def data_parallel(module: nn.Module) -> nn.Module:
    """Returns ``module`` with gradients averaged over the processes, or itself in a single process.

    For one forward followed by one backward. Buffers are not synchronized: broadcasting them before
    a forward would overwrite what an earlier one saved for its backward (pytorch/pytorch#175024)
    and copy rank 0's statistics to all.
    """
    if not _in_group():
        return module
    # torch 2.13 deprecates the first name in favour of the second.
    known = inspect.signature(DistributedDataParallel).parameters
    name = "forward_sync_buffers" if "forward_sync_buffers" in known else "broadcast_buffers"
    options: dict[str, Any] = {name: False}
    return DistributedDataParallel(module, **options)


def _in_group() -> bool:
    return dist.is_available() and dist.is_initialized()

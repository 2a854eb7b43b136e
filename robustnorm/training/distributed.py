"""Training one network with many processes: the process group, and what its members average.

Every function also works in a single process without a group. In a group, all processes must call a
function at the same point if it exchanges messages.
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

from robustnorm.system.device import resolve_device
from robustnorm.system.errors import UsageError

_T = TypeVar("_T")

# A process that waits for a message for this long fails; a peer that died is noticed at once.
_TIMEOUT = timedelta(minutes=30)


def launched_processes() -> int:
    """Returns the number of processes that torchrun started, or 1."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def own_device(name: str) -> str:
    """Returns the name of this process's device; with several processes each gets its own GPU.

    Args:
        name: ``"auto"``, ``"cuda"`` or another device.

    Raises:
        UsageError: When several processes would share one GPU.
    """
    if launched_processes() == 1 or name == "cpu":
        return name
    if name.startswith("cuda:"):
        raise UsageError(
            f"each of {launched_processes()} processes needs its own GPU, got --device {name}; use "
            "--device cuda, with CUDA_VISIBLE_DEVICES to choose among GPUs"
        )
    if name == "cuda" or (name == "auto" and torch.cuda.is_available()):
        return f"cuda:{os.environ['LOCAL_RANK']}"
    return name


@contextmanager
def process_group(name: str) -> Iterator[torch.device]:
    """Joins, for the block, the group of the processes that torchrun started; yields the device.

    Tensors on a GPU are sent through NCCL, those on the CPU through Gloo. Without torchrun there is
    no group; a group that is already open is used and left open.

    Args:
        name: As in ``own_device``.

    Raises:
        UsageError: When there is no such device, or several processes would share it.
    """
    device = resolve_device(own_device(name))
    if launched_processes() == 1 or _in_group():
        yield device
        return
    if device.type == "cuda":
        torch.cuda.set_device(device)
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    dist.init_process_group(backend, timeout=_TIMEOUT)
    yield device
    # Not after an error: the other processes may never reach this point.
    dist.destroy_process_group()


def world_size() -> int:
    """Returns the number of processes in the group; 1 without a group."""
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
            "--batch_size counts the images of all processes and must be a multiple of their "
            f"number, got {batch_size} for {world_size()} processes; try {nearest}"
        )
    return batch_size // world_size()


def share_of_process(batch: Tensor) -> Tensor:
    """Returns this process's share of a batch: of (N, ...), (N / world size, ...)."""
    return batch.chunk(world_size())[rank()]


def any_process(*flags: bool) -> list[bool]:
    """Returns for each flag whether it is set in any process."""
    if not _in_group():
        return list(flags)
    together = torch.tensor(flags, dtype=torch.int32)
    dist.all_reduce(together, dist.ReduceOp.MAX)
    return [bool(flag) for flag in together.tolist()]


def wait_for_all() -> None:
    """Returns once all processes have called it."""
    any_process(False)


@contextmanager
def one_per_node_first() -> Iterator[None]:
    """Lets one process per node run the block first; the others can then read what it wrote."""
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
    """Replaces ``values`` by their mean over the processes, in place."""
    if _in_group():
        dist.all_reduce(values)
        values /= world_size()


@torch.no_grad()
def average_statistics(model: nn.Module) -> None:
    """Replaces running statistics by their means over the processes, in place.

    Averaging running means, variances and second moments gives the running averages over the
    batches of all processes. Counters are already equal.

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
    """Returns ``module`` with gradients averaged over the processes; itself without a group.

    For one forward followed by one backward. Buffers are not synchronized: broadcasting them before
    a forward would overwrite what an earlier forward saved for its backward
    (pytorch/pytorch#175024) and copy rank 0's statistics to all processes.
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

"""Distance from the machine's limit: operations and bytes of each job, against measured times.

    python -m benchmarks.roofline [--width 64] [--batch 64] [--rounds 5]

Operations are recorded as a job runs: floating-point operations of its convolutions and matrix
products, and bytes of everything else (inputs and outputs, once each). The machine's rates are
those of this network's best 3x3 convolution and of copying a large tensor. A job's limit is its
operations divided by the first rate plus its bytes divided by the second; "of peak" ignores the
bytes.

The folded copy may need fewer operations than the network itself. "Direct, of peak" counts those of
the network; it may exceed 1.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import torch
from tabulate import tabulate
from torch import Tensor
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from benchmarks.training_step import stepper
from benchmarks.workload import images_and_network, machine
from robustnorm import bind
from robustnorm.attacks.descent import pgd_step
from robustnorm.evaluation.search import branches
from robustnorm.system.allocator import keep_freed_memory


class Work(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch's class has no types
    """Sums floating-point operations of convolutions and matrix products, and bytes of the rest."""

    operations = 0
    bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        output = func(*args, **kwargs)
        count = flop_registry.get(func.overloadpacket)
        views = any(r.alias_info and not r.alias_info.is_write for r in func._schema.returns)
        if count is not None:
            self.operations += count(*args, **kwargs, out_val=output)
        elif not views:
            tensors = [*args, *(output if isinstance(output, (tuple, list)) else [output])]
            self.bytes += sum(t.nbytes for t in tensors if isinstance(t, Tensor))
        return output


def best_seconds(function: Callable[[], Any], rounds: int) -> float:
    """Returns the shortest of several runs after a warm-up."""
    function()
    times = []
    for _ in range(rounds):
        start = time.perf_counter()
        function()
        times.append(time.perf_counter() - start)
    return min(times)


def convolution_rate(dtype: torch.dtype, options: argparse.Namespace) -> float:
    """Returns the floating-point operations per second of the network's best 3x3 convolution."""
    rates: list[float] = []
    for stage in range(4):
        channels, size = options.width << stage, 32 >> stage
        images = torch.rand(options.batch, channels, size, size).to(dtype)
        images = images.contiguous(memory_format=torch.channels_last)
        weight = torch.rand(channels, channels, 3, 3).to(dtype)
        weight = weight.contiguous(memory_format=torch.channels_last)
        operations = 2 * images.numel() * channels * 9
        seconds = best_seconds(lambda: F.conv2d(images, weight, padding=1), 4 * options.rounds)  # noqa: B023 (called here)
        rates.append(operations / seconds)
    return max(rates)


def copy_rate(rounds: int) -> float:
    """Returns the bytes per second that a copy reads and writes."""
    source = torch.rand(64 << 20)
    target = torch.empty_like(source)
    seconds = best_seconds(lambda: target.copy_(source), rounds)
    return float(2 * source.nbytes / seconds)


def operations(job: Callable[[], Any]) -> Work:
    """Returns the operations and bytes of one run of the job."""
    work: Work = Work()  # type: ignore[no-untyped-call]  # torch's class has no types
    with work:
        job()
    return work


class TimedJob(NamedTuple):
    """A step, the same step through the network itself, and the precision of its convolutions."""

    run: Callable[[], Any]
    direct: Callable[[], Any]
    dtype: torch.dtype


def jobs(options: argparse.Namespace) -> dict[str, TimedJob]:
    """Returns the jobs by name."""
    images, labels, network = images_and_network(options.batch, options.width)
    images = images.contiguous(memory_format=torch.channels_last)

    def attack(network: Callable[[Tensor], Tensor]) -> Callable[[], Any]:
        return lambda: pgd_step(network, images, images, labels, epsilon=8 / 255, step_size=2 / 255)

    def searched(precision: Literal["fp32", "bf16"]) -> Callable[[], Any]:
        return attack(branches(network, precision)[1].standin)

    options.precision = "bf16"
    cpu = torch.device("cpu")
    direct = attack(bind(network, "adv").requires_grad_(False))
    saauxbn, bn = (stepper(norm, cpu, options) for norm in ("saauxbn", "bn"))
    return {
        "PGD step, fp32": TimedJob(searched("fp32"), direct, torch.float32),
        "PGD step, bf16 search": TimedJob(searched("bf16"), direct, torch.bfloat16),
        "AdvProp step, SaAuxBN, bf16": TimedJob(saauxbn, saauxbn, torch.bfloat16),
        "AdvProp step, BN, bf16": TimedJob(bn, bn, torch.bfloat16),
    }


def main() -> None:
    """Measures the machine and the jobs and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    keep_freed_memory()
    rates = {dtype: convolution_rate(dtype, options) for dtype in (torch.float32, torch.bfloat16)}
    bandwidth = copy_rate(options.rounds)
    rows = []
    for name, job in jobs(options).items():
        seconds = best_seconds(job.run, options.rounds)
        work, direct = operations(job.run), operations(job.direct).operations
        compute = work.operations / rates[job.dtype]
        limit = compute + work.bytes / bandwidth
        rows.append(
            (
                name,
                work.operations / options.batch / 1e9,
                work.bytes / options.batch / 1e6,
                1000 * limit / options.batch,
                1000 * seconds / options.batch,
                compute / seconds,
                limit / seconds,
                direct / options.batch / 1e9,
                direct / rates[job.dtype] / seconds,
            )
        )
    print(
        f"## The limit\n\nResNet-18 of width {options.width}, batch {options.batch}, 32x32 images. "
        f"Best 3x3 convolution: {rates[torch.float32] / 1e9:.0f} GFLOP/s fp32, "
        f"{rates[torch.bfloat16] / 1e9:.0f} bf16; copy: {bandwidth / 1e9:.1f} GB/s; {machine()}.\n"
    )
    headers = [
        "job", "GFLOP per image", "MB per image", "limit, ms per image", "measured", "of peak",
        "of the limit", "direct, GFLOP", "direct, of peak",
    ]  # fmt: skip
    formats = ("", ".2f", ".1f", ".2f", ".2f", ".2f", ".2f", ".2f", ".2f")
    print(tabulate(rows, headers=headers, tablefmt="pipe", floatfmt=formats))


if __name__ == "__main__":
    main()

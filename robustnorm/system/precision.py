"""Precision of the forward passes that give verdicts."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

import torch
from torch import backends
from torch.backends import cudnn


@contextmanager
def exact_float32() -> Iterator[None]:
    """For the block, keeps torch from rounding float32 to TF32 or bf16 and benchmarking kernels."""
    with ExitStack() as stack:

        def change(owner: Any, name: str, value: Any) -> None:
            stack.callback(setattr, owner, name, getattr(owner, name))
            setattr(owner, name, value)

        change(cudnn, "benchmark", False)
        # torch has an old and a new interface; compilers read the old one. Its settings cannot be
        # read once the new one has been used.
        with suppress(RuntimeError):
            matmul, convolution = torch.get_float32_matmul_precision(), cudnn.allow_tf32
            if matmul != "highest":
                stack.callback(torch.set_float32_matmul_precision, matmul)
                torch.set_float32_matmul_precision("highest")
            if convolution:
                change(cudnn, "allow_tf32", False)
        gpu: Any = cudnn  # Any: without annotations in torch
        cpu: Any = backends.mkldnn
        for operations in (backends.cuda.matmul, gpu.conv, gpu.rnn, cpu.matmul, cpu.conv, cpu.rnn):
            if operations.fp32_precision not in ("ieee", "none"):
                change(operations, "fp32_precision", "ieee")
        yield

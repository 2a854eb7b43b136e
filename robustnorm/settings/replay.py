"""Settings of ``robustnorm replay``; no torch."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class ReplaySettings:
    """Which step to take again.

    Args:
        file: Written by a training run whose loss or gradient was not finite:
            checkpoints/<config>/<run>/replay/<step>.safetensors.
        device: cpu, cuda, cuda:1, ...; a GPU where there is one by default.
    """

    file: str
    device: str = "auto"

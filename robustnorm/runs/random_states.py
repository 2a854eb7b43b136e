"""The global random states, used by layers such as dropout."""

from __future__ import annotations

import json
import random
from typing import Any

import numpy as np
import torch
from torch import Tensor


def random_states(device: torch.device) -> dict[str, Tensor]:
    """Returns the random states of Python, numpy, torch and, on a GPU, the device.

    Args:
        device: The network's device.

    Returns:
        uint8 tensors by name, for ``set_random_states``.
    """
    states = {
        "python": _to_tensor(random.getstate()),
        "numpy": _to_tensor(np.random.get_state(legacy=False)),  # noqa: NPY002
        "torch": torch.get_rng_state(),
    }
    if device.type == "cuda":
        states["cuda"] = torch.cuda.get_rng_state(device)
    return states


def set_random_states(states: dict[str, Tensor], device: torch.device) -> None:
    """Restores random states; ignores that of a GPU when ``device`` is none."""
    if "python" in states:
        version, numbers, gauss = _from_tensor(states["python"])
        random.setstate((version, tuple(numbers), gauss))
    if "numpy" in states:
        np.random.set_state(_from_tensor(states["numpy"]))  # noqa: NPY002
    if "torch" in states:
        torch.set_rng_state(states["torch"])
    if "cuda" in states and device.type == "cuda":
        torch.cuda.set_rng_state(states["cuda"], device)


def _to_tensor(state: Any) -> Tensor:
    text = json.dumps(state, default=np.ndarray.tolist)
    return torch.frombuffer(bytearray(text.encode()), dtype=torch.uint8)


def _from_tensor(state: Tensor) -> Any:
    return json.loads(bytes(state.tolist()))

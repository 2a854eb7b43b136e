"""Checks weights from any source before a network loads them."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from difflib import get_close_matches

import torch
from torch import Tensor, nn

from robustnorm.system.errors import RefusedFileError
from robustnorm.system.registry import some

_FLOATING = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
# Accepted excess of the squared mean over the second moment, from float32 rounding.
_ROUNDING = 1e-5
# Pairs of similar names in a message; names compared with each; their largest length.
_PAIRS, _MOST_COMPARED, _LONGEST = 5, 500, 200


def check_weights(weights: Mapping[str, Tensor], model: nn.Module, source: str) -> None:
    """Raises a RefusedFileError unless ``model`` can load the weights unchanged; copies nothing.

    Names and shapes must be the network's. Values must be floating point where the network's are,
    int64 for batch counts, and finite in the network's precision. Variances and counts must not be
    negative, nor a second moment less than its squared mean (``ModeNorm``).

    Args:
        weights: Tensors by name.
        model: The network; may be on the meta device.
        source: How the message refers to the weights, such as the path of their file.
    """
    state: dict[str, Tensor] = model.state_dict()
    shapes = {
        f"{name} {tuple(weights[name].shape)} instead of {tuple(state[name].shape)}"
        for name in state.keys() & weights.keys()
        if weights[name].shape != state[name].shape
    }
    faults = {
        "missing": state.keys() - weights.keys(),
        "not in the network": weights.keys() - state.keys(),
        "of another shape": shapes,
    }
    faults["alike"] = _similar_names(
        faults["missing"], faults["not in the network"], weights, state
    )
    # Values are read only once names and shapes fit: reading them may be expensive.
    if not any(faults.values()):
        faults = {"unfit": {text for name in state if (text := _unfit(name, weights, state))}}
    if any(faults.values()):
        found = "; ".join(
            f"{what}: {some(names, _PAIRS)}" for what, names in faults.items() if names
        )
        raise RefusedFileError(
            f"{source} does not fit the network ({found}); nothing was loaded. Build the network "
            "with the settings of its training, or use other weights"
        )


def _similar_names(
    missing: Collection[str],
    others: Collection[str],
    weights: Mapping[str, Tensor],
    state: Mapping[str, Tensor],
) -> set[str]:
    """Returns a few missing names, each with the most similar other name of the same shape."""
    by_shape = dict[torch.Size, list[str]]()
    for other in sorted(others):
        same = by_shape.setdefault(weights[other].shape, [])
        if len(other) <= _LONGEST and len(same) < _MOST_COMPARED:
            same.append(other)
    compared = [name for name in sorted(missing) if by_shape.get(state[name].shape)][:_PAIRS]
    nearest = {
        name: get_close_matches(name, by_shape[state[name].shape], n=1, cutoff=0)[0]
        for name in compared
    }
    return {f"{name} here and {nearest[name]} there" for name in compared}


def _unfit(name: str, weights: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> str:
    """Returns what is wrong with a tensor's type or values, or ""."""
    value, dtype = weights[name], state[name].dtype
    if value.dtype not in (_FLOATING if dtype.is_floating_point else (dtype,)):
        kind = "floating point" if dtype.is_floating_point else str(dtype)
        return f"{name} must be {kind}, got {value.dtype}"
    value = value.detach().to(dtype)
    tensor = name.rpartition(".")[2]
    if not value.isfinite().all():
        return f"{name} must be finite"
    if tensor in ("running_var", "num_batches_tracked") and (value < 0).any():
        return f"{name} must be at least 0, got {value.min().item():.3g}"
    if tensor == "running_second_moment":
        square = weights[name.removesuffix("second_moment") + "mean"].detach().to(dtype).square()
        if (value < square * (1 - _ROUNDING) - _ROUNDING).any():
            return f"{name} must be at least the square of running_mean"
    return ""


def without_shared_memory(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Returns contiguous tensors; those that share memory with an earlier one are copied.

    A network that contains a module twice has such tensors, which safetensors cannot store.

    Examples:
        >>> one = torch.zeros(4)
        >>> kept = without_shared_memory({"a": one, "b": one[:2]})
        >>> kept["a"] is one, kept["b"].untyped_storage().nbytes()
        (True, 8)
    """
    kept, seen = dict[str, Tensor](), set[int]()
    for name, value in tensors.items():
        value = value.contiguous()
        address = value.untyped_storage().data_ptr()
        kept[name] = value.clone() if address in seen else value
        seen.add(address)
    return kept

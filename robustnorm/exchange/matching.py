"""Bringing the names of foreign weights to those of a network."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping

import torch
from torch import Tensor

# Names under which other code stores the mean and deviation that it normalizes its input with.
_MEANS, _STDS = r"(new_)?(means?|mu)", r"(new_)?(stds?|sds|sigma)"
_COUNT = "num_batches_tracked"


def match_names(state: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Returns foreign weights under a network's names, from which a prefix may set them apart.

    The prefix, such as ``module.``, ``model.`` or ``_orig_mod.module.``, is the one under which
    most names are the network's. An input's mean and deviation become ``normalize.mean`` and
    ``normalize.std``, wherever they stand; anything else outside of the prefix keeps its name, so
    that it is found not to fit. Counts of batches, which old files lack, become 0.

    Args:
        state: Tensors by name.
        wanted: State of the network; its values are not used.

    Examples:
        >>> zeros = torch.zeros(2)
        >>> sorted(match_names({"module.net.fc.bias": zeros, "mu": zeros}, {"fc.bias": zeros}))
        ['fc.bias', 'normalize.mean']
    """
    prefixes = Counter[str]()
    for name in state:
        parts = name.split(".")
        for begin in range(len(parts)):
            if ".".join(parts[begin:]) in wanted:
                prefixes["".join(f"{part}." for part in parts[:begin])] += 1
    prefix = prefixes.most_common(1)[0][0] if prefixes else ""
    found = {
        name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)
    }
    for name, value in state.items():
        if name in found and name in wanted and name.startswith(prefix):
            continue
        last = name.rpartition(".")[2]
        for pattern, target in ((_MEANS, "normalize.mean"), (_STDS, "normalize.std")):
            if re.fullmatch(pattern, last) and name.removeprefix(prefix) not in wanted:
                found.pop(name.removeprefix(prefix), None)
                found[target] = value
                break
        else:
            if not name.startswith(prefix):
                found[name] = value
    for target in ("normalize.mean", "normalize.std"):
        if target in found:
            found[target] = found[target].reshape(-1, 1, 1)
    for name in wanted:
        layer, _, last = name.rpartition(".")
        if last == _COUNT and name not in found and f"{layer}.running_mean" in found:
            found[name] = torch.tensor(0)
    return found


def normalization_of(state: Mapping[str, Tensor]) -> dict[str, list[float]]:
    """Returns the mean and deviation per channel that matched weights hold, {} without any."""
    return {
        name: state[f"normalize.{name}"].flatten().tolist()
        for name in ("mean", "std")
        if f"normalize.{name}" in state
    }

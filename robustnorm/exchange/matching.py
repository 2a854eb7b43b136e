"""Renaming the weights of other code to the names of a network."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from robustnorm.models.building import normalizations

_OURS = ("normalize.mean", "normalize.std")
_COUNT = "num_batches_tracked"
# Entries that are not weights: the count of torch's AveragedModel, thop's operation counts, and
# the block of TRADES's WideResNet that its forward never uses.
_NOT_WEIGHTS = re.compile(r"(.*\.)?(n_averaged|total_ops|total_params|sub_block1\..*)")


def match_names(state: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Returns the weights of other code under a network's names, which may lack a prefix.

    The prefix, such as ``module.``, ``model.`` or ``_orig_mod.module.``, is the one under which
    most names are the network's. The mean and standard deviation of the input get the network's
    names for them (``normalize.mean`` and ``normalize.std`` in ours), wherever they are. Second
    copies of a tensor, and entries that are not weights, such as torch's ``n_averaged``, are
    dropped; anything else keeps its name, so that it is reported as not fitting. Batch counts,
    which old files lack, become 0.

    Args:
        state: Tensors by name.
        wanted: State of the network; its values are not used.

    Examples:
        >>> zeros = torch.zeros(2)
        >>> state = {"module.net.fc.bias": zeros, "mu": zeros, "sigma": zeros + 1}
        >>> sorted(match_names(state, {"fc.bias": zeros}))
        ['fc.bias', 'normalize.mean', 'normalize.std']
    """
    prefix = _prefix(state, wanted)
    found, rest = dict[str, Tensor](), dict[str, Tensor]()
    for name, value in state.items():
        short = name.removeprefix(prefix)
        if name.startswith(prefix) and short in wanted:
            found[short] = value
        elif not _NOT_WEIGHTS.fullmatch(name):
            rest[name] = value
    ours = next(iter(normalizations(wanted)), _OURS)
    for theirs in normalizations(rest):
        for name, target in zip(theirs, ours, strict=True):
            value = _shaped(rest[name], wanted.get(target))
            if target not in found or _same(found[target], value):
                found[target] = value
                del rest[name]
    for name, value in rest.items():
        short = name.removeprefix(prefix)
        if not any(_same(found.get(end), value) for end in _ends(name)):
            found[f"{name} beside {prefix}{short}" if short in found else short] = value
    for name in wanted:
        layer, _, last = name.rpartition(".")
        if last == _COUNT and name not in found and f"{layer}.running_mean" in found:
            found[name] = torch.tensor(0)
    return found


def normalization_of(state: Mapping[str, Tensor]) -> dict[str, list[float]]:
    """Returns the mean and standard deviation per channel that a state holds, {} without any.

    Examples:
        >>> normalization_of({"0.mu": torch.tensor([0.5]), "0.sigma": torch.ones(1, 1, 1)})
        {'mean': [0.5], 'std': [1.0]}
    """
    for mean, std in normalizations(state):
        return {"mean": state[mean].flatten().tolist(), "std": state[std].flatten().tolist()}
    return {}


def classes_of(
    state: Mapping[str, Tensor], wanted: Mapping[str, Tensor], classes: int
) -> int | None:
    """Returns the number of classes of weights that differ from a network in nothing else.

    Args:
        state: Tensors under the network's names.
        wanted: State of a network with ``classes`` classes.
        classes: Number of classes of the network.

    Returns:
        None if nothing differs, or anything else does.

    Examples:
        >>> state = {"conv": torch.zeros(3, 1), "fc": torch.zeros(10, 4)}
        >>> classes_of(state, {"conv": torch.zeros(3, 1), "fc": torch.zeros(7, 4)}, 7)
        10
    """
    numbers = set[int]()
    for name in state.keys() & wanted.keys():
        theirs, ours = state[name].shape, wanted[name].shape
        if theirs != ours:
            last = ours[:1] == (classes,) and len(theirs) > 0 and theirs[1:] == ours[1:]
            numbers.add(theirs[0] if last else -1)
    return numbers.pop() if len(numbers) == 1 and -1 not in numbers else None


def _prefix(state: Iterable[str], wanted: Mapping[str, Tensor]) -> str:
    """Returns the prefix under which most names are the network's, the shortest if several are."""
    prefixes = Counter(
        name.removesuffix(end) for name in state for end in _ends(name) if end in wanted
    )
    return min(prefixes, key=lambda prefix: (-prefixes[prefix], len(prefix)), default="")


def _ends(name: str) -> list[str]:
    """Returns the name, and what follows each dot in it.

    Examples:
        >>> _ends("module.fc.bias")
        ['module.fc.bias', 'fc.bias', 'bias']
    """
    parts = name.split(".")
    return [".".join(parts[begin:]) for begin in range(len(parts))]


def _shaped(value: Tensor, like: Tensor | None) -> Tensor:
    if like is None:
        return value.reshape(-1, 1, 1)
    return value.reshape(like.shape) if like.numel() == value.numel() else value


def _same(one: Tensor | None, other: Tensor) -> bool:
    return one is not None and one.dtype == other.dtype and torch.equal(one, other)

"""Loading networks that other code trained with several sets of batch norms.

A loader converts a state_dict with that code's names to ours; ``LOADERS`` lists them by name. Row 0
of each per-branch tensor is the set for clean images, the other rows are those for adversarial
ones.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn

from robustnorm.attacks.logits import check_values
from robustnorm.exchange.matching import match_names
from robustnorm.models.weights import check_weights
from robustnorm.norms.routing import branches_of
from robustnorm.system.errors import RefusedFileError
from robustnorm.system.registry import Registry

State = Mapping[str, Tensor]

# Prefix that nn.DataParallel adds to each name.
_PARALLEL = "module."

LOADERS = Registry(
    "layout",
    {
        "timm-splitbn": "robustnorm.exchange.loaders:timm_splitbn",
        "advprop-mixbn": "robustnorm.exchange.loaders:advprop_mixbn",
        "oat-dualbn": "robustnorm.exchange.loaders:oat_dualbn",
        "sandwich-release": "robustnorm.exchange.loaders:sandwich_release",
        "plain": "robustnorm.exchange.loaders:plain",
    },
)


def load_released(
    model: nn.Module,
    state: State,
    layout: str,
    branches: Sequence[str] = ("clean", "adv"),
) -> None:
    """Loads a state_dict in the layout of other code into a network with routed layers, in place.

    Args:
        model: A network whose layers have the state's names, with AuxBN where the other code has
            two batch norms (SaAuxBN for a sandwich); ``convert`` makes one from a plain network.
        state: The state_dict, without the optimizer's or other state. A prefix of its names, such
            as "module." or "model.", is removed.
        layout: A name in ``LOADERS``.
        branches: Branches of ``model`` in the order of the state's sets, clean images first.

    Raises:
        ValueError: On an unknown layout, or a model with other branches or without values.
        RefusedFileError: On tensors that are missing, unexpected, of another shape or type, or with
            invalid values; the message names all of them, and nothing is loaded.

    Examples:
        >>> from robustnorm import convert
        >>> model = convert(nn.Sequential(nn.BatchNorm2d(2)), "auxbn")
        >>> peer = {f"0.{name}": value for name, value in nn.BatchNorm2d(2).state_dict().items()}
        >>> peer |= {f"0.aux_bn.{name[2:]}": value + 1 for name, value in peer.items()}
        >>> load_released(model, peer, "advprop-mixbn")
        >>> model[0].weight.tolist()
        [[1.0, 1.0], [2.0, 2.0]]
    """
    check_values(model)
    loader = LOADERS[LOADERS.check(layout)]
    known = branches_of(model)
    if known and known != tuple(branches):
        raise ValueError(
            f"the model has the branches {known}, but the state's are called {tuple(branches)}; "
            "give the model's names in the state's order with branches=, clean images first"
        )
    source = f"the state, read as '{layout}',"
    try:
        loaded: dict[str, Tensor] = loader(state)
    except (RuntimeError, IndexError) as error:  # from torch, on unexpected shapes
        raise RefusedFileError(f"{source} has tensors of incompatible shapes ({error})") from error
    loaded = match_names(loaded, model.state_dict())
    check_weights(loaded, model, source)
    model.load_state_dict(loaded)


def plain(state: State) -> dict[str, Tensor]:
    """Reads a state_dict that already has our names.

    Args:
        state: Tensors by name.
    """
    return {name.removeprefix(_PARALLEL): value for name, value in state.items()}


def timm_splitbn(state: State) -> dict[str, Tensor]:
    """Converts timm's SplitBatchNorm2d to AuxBN.

    ``bn1.weight`` (C,) is the first set; ``bn1.aux_bn.0.weight`` the second, ``aux_bn.1`` a third.

    Args:
        state: Tensors by name.

    Raises:
        ValueError: When a set is missing.

    References:
        huggingface/pytorch-image-models, timm/layers/split_batchnorm.py.
    """
    return _stack(
        state, r"(?P<layer>.+)\.aux_bn\.(?P<set>\d+)\.(?P<tensor>\w+)", lambda i: int(i) + 1
    )


def advprop_mixbn(state: State) -> dict[str, Tensor]:
    """Converts AdvProp's MixBatchNorm2d, as named in its PyTorch port, to AuxBN.

    ``bn1.weight`` (C,) is the clean set, ``bn1.aux_bn.weight`` the adversarial one.

    Args:
        state: Tensors by name.

    Raises:
        ValueError: When a set is missing.

    References:
        tingxueronghua/pytorch-classification-advprop, net.py; arXiv:1911.09665.
    """
    return _stack(state, r"(?P<layer>.+)\.(?P<set>aux_bn)\.(?P<tensor>\w+)", lambda _: 1)


def oat_dualbn(state: State) -> dict[str, Tensor]:
    """Converts the DualBN2d of Once-for-all Adversarial Training to AuxBN.

    ``bn1.BN_c.weight`` (C,) is the clean set, ``bn1.BN_a.weight`` the adversarial one.

    Args:
        state: Tensors by name. FiLM layers (``film1.MLP.0.weight``, ...) keep their names.

    Raises:
        ValueError: When a set is missing.

    References:
        VITA-Group/Once-for-All-Adversarial-Training, models/DualBN.py; arXiv:2010.11828.
    """
    return _stack(state, r"(?P<layer>.+)\.BN_(?P<set>[ca])\.(?P<tensor>\w+)", "ca".index)


def sandwich_release(state: State) -> dict[str, Tensor]:
    """Converts networks of the Sandwich Batch Normalization release to ``preact_resnet18``.

    ``bn1.bn_list.0`` holds the clean set and ``bn_list.1`` the adversarial one. In SaAuxBN they
    have no affine; the first rows of ``bn1.embed.weight`` (3, 2 C) hold the branches' scales and
    shifts side by side, the last row the shared ones. ``normal``, ``shortcut.0`` and ``linear`` are
    our ``normalize``, ``downsample`` and ``fc``.

    Args:
        state: Tensors by name, of "auxbn", "saauxbn" or "bn" (which has a single set). They fit
            ``preact_resnet18(norm, mean=..., std=..., final_norm=False)``.

    Raises:
        ValueError: When a set is missing.

    References:
        VITA-Group/Sandwich-Batch-Normalization, Adv/models; arXiv:2102.11382.
    """
    stacked = _stack(state, r"(?P<layer>.+)\.bn_list\.(?P<set>\d+)\.(?P<tensor>\w+)", int)
    converted = dict[str, Tensor]()
    for name, value in stacked.items():
        layer, _, tensor = name.rpartition(".")
        if layer.endswith(".embed"):
            scale, shift = value.chunk(2, dim=1)
            prefix = layer.removesuffix("embed")
            converted |= {f"{prefix}weight": scale[:-1], f"{prefix}bias": shift[:-1]}
            converted |= {
                f"{prefix}shared_weight": scale[-1],
                f"{prefix}shared_bias": shift[-1],
            }
        elif layer == "normal":
            converted[f"normalize.{tensor}"] = value.view(-1, 1, 1)
        elif layer == "linear":
            converted[f"fc.{tensor}"] = value
        else:
            converted[name.replace(".shortcut.0.", ".downsample.")] = value
    return converted


def _stack(state: State, pattern: str, row: Callable[[str], int]) -> dict[str, Tensor]:
    """Stacks the tensors of a layer's sets; the first set may have the plain name."""
    rest, stacked = dict[str, Tensor](), dict[str, dict[int, Tensor]]()
    for name, value in state.items():
        name = name.removeprefix(_PARALLEL)
        if match := re.fullmatch(pattern, name):
            plain = f"{match['layer']}.{match['tensor']}"
            stacked.setdefault(plain, {})[row(match["set"])] = value
        else:
            rest[name] = value
    for plain, rows in stacked.items():
        if plain in rest:
            rows[0] = rest[plain]
        absent = set(range(max(rows) + 1)) - rows.keys()
        if absent:
            raise ValueError(f"the state lacks set {min(absent)} of {plain}")
        rest[plain] = torch.stack([rows[i] for i in range(len(rows))])
    return rest

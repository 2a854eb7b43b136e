"""Building any network by name; what its factory does not do is done to the network it returns."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from inspect import Parameter, signature
from typing import Any

import torch
from torch import Tensor, nn

from robustnorm.attacks.contract import unchanged
from robustnorm.attacks.logits import InputError, LogitsModel
from robustnorm.models import NETWORKS
from robustnorm.models.resnet import Norm, Normalized
from robustnorm.norms import NORMS
from robustnorm.system.errors import UsageError, UserError
from robustnorm.system.memory import is_out_of_memory
from robustnorm.system.registry import did_you_mean, some

# Names under which other code stores the mean and standard deviation of its input.
_MEAN = re.compile(r"(new_)?(means?|mu)")
_STDS = [new + std for new in ("", "new_") for std in ("std", "stds", "sds", "sigma")]
# Arguments for unregistered factories, whose "width", say, may mean something else.
_OFFERED = ("norm", "branches", "num_classes", "in_channels", "mean", "std")
# Annotations of a parameter that takes the name of a norm.
_NAMES = (str, "str", Norm, "Norm")


class NetworkError(UsageError):
    """A network cannot be built."""


def relevant_arguments(name: str, offered: Mapping[str, Any]) -> dict[str, Any]:
    """Returns those of the offered arguments on which the network from ``build_network`` depends.

    Raises:
        ValueError, ImportError: As ``NETWORKS.check``, and from importing its module.
    """
    if name not in NETWORKS:
        return {key: offered[key] for key in _OFFERED}
    wanted = {*_parameters(name, NETWORKS[name]), *_OFFERED}
    return {key: value for key, value in offered.items() if key in wanted}


def build_network(
    name: str, offered: Mapping[str, Any], args: Mapping[str, Any] | None = None
) -> nn.Module:
    """Builds a network with the given norm, for the given data.

    The factory gets the arguments that it accepts. If it has no parameter ``norm``, the batch norms
    of its network are replaced (``robustnorm.models.conversion.with_norm``); if it has no parameter
    ``mean``, and its network stores none, the input is normalized before the network.

    Args:
        name: A key of ``NETWORKS``, ``timm:NAME``, or a ``module:factory`` that the user typed.
        offered: ``norm`` (a name), ``branches``, ``num_classes``, ``in_channels``, ``mean``,
            ``std``; for registered networks also ``width`` and ``final_norm``. A parameter ``norm``
            annotated ``str`` gets the name, any other a function num_features -> layer.
        args: Further arguments of the factory, which override those offered.

    Raises:
        NetworkError: When the factory fails, or returns no network with that norm, or one on the
            meta device.
        ValueError, ImportError: As ``NETWORKS.check``.
    """
    factory = NETWORKS[NETWORKS.check(name)]
    parameters = _parameters(name, factory)
    norm, branches = offered["norm"], tuple(offered.get("branches", ("clean", "adv")))
    known = offered if name in NETWORKS else relevant_arguments(name, offered)
    arguments = {key: value for key, value in known.items() if key in parameters}
    if "norm" in arguments and parameters["norm"].annotation not in _NAMES:
        arguments["norm"] = _layers(norm, branches)
    network = _call(name, factory, arguments, {} if args is None else args)
    if norm != "bn":
        network = _with_norm(name, network, norm, branches, has_norm="norm" in parameters)
    if "mean" not in parameters:
        network = _normalized(network, offered)
    empty = [key for key, value in network.state_dict().items() if value.is_meta]
    if empty and torch.get_default_device().type != "meta":
        raise NetworkError(
            f"network {name} has weights on the meta device, where they have no values "
            f"({some(empty)}); build it without torch.device('meta') and without init_empty_weights"
        )
    return network


def normalizations(state: Mapping[str, Tensor]) -> list[tuple[str, str]]:
    """Returns the names of the input's mean and standard deviation in each layer that has both."""
    found = []
    for name in state:
        layer, dot, last = name.rpartition(".")
        if _MEAN.fullmatch(last):
            stds = [f"{layer}{dot}{std}" for std in _STDS if f"{layer}{dot}{std}" in state]
            found += [(name, std) for std in stds if state[std].numel() == state[name].numel()]
    return found


def normalizes_itself(name: str) -> bool:
    """Returns whether a network's factory takes the mean and standard deviation of its input."""
    return "mean" in _parameters(name, NETWORKS[NETWORKS.check(name)])


def check_output(
    network: nn.Module, name: str, data: Mapping[str, Any], *, only_logits: bool = False
) -> None:
    """Raises a NetworkError unless a network gives each image one logit per class.

    Args:
        network: As built; its mode and state are left as they are.
        name: Its name, for the message.
        data: ``channels``, ``image_size`` and ``classes`` of the images.
        only_logits: Whether it must return the logits and nothing else, as in training; an
            evaluation also finds them in a tuple, a dictionary or an object.
    """
    from robustnorm.norms.routing import bind, branches_of  # see _with_norm

    size, classes = data.get("image_size"), len(data["classes"])
    if size is None:
        return
    first = next(network.parameters(), torch.empty(0))
    bound = bind(network, next(iter(branches_of(network)), "clean"))
    images = torch.zeros(2, data["channels"], *size, device=first.device)
    outputs: list[object] = []
    watch = bound.register_forward_hook(lambda *given: outputs.append(given[-1]))
    try:
        with unchanged(network), torch.no_grad(), torch.random.fork_rng(devices=[]):
            network.eval()
            logits = LogitsModel(bound)(images)
    except InputError as error:
        raise NetworkError(f"network {name}: {error}") from error
    finally:
        watch.remove()
    begin = f"network {name} must return logits of shape (images, {classes} classes)"
    if only_logits and not isinstance(outputs[0], Tensor):
        returned = type(outputs[0]).__name__
        raise NetworkError(
            f"{begin} to be trained, it returns a {returned}: return the logits alone"
        )
    if logits.shape != (len(images), classes):
        raise NetworkError(
            f"{begin}, it returns {tuple(logits.shape)} for {len(images)} images: use data with as "
            f"many classes, or build it for these, such as with --network_args '{{num_classes: "
            f"{classes}}}' if its factory has that argument"
        )


def _call(
    name: str,
    factory: Callable[..., Any],
    arguments: dict[str, Any],
    args: Mapping[str, Any],
) -> nn.Module:
    parameters = _parameters(name, factory)
    for key in args:
        if key in ("norm", "branches"):
            raise NetworkError(f"network_args cannot have {key}; give --{key}")
        takes_any = any(each.kind is Parameter.VAR_KEYWORD for each in parameters.values())
        if key not in parameters and not takes_any:
            raise NetworkError(
                f"network_args has '{key}', which {name} does not take"
                f"{did_you_mean(key, parameters) or '.'} It takes {', '.join(parameters)}"
            )
    arguments = arguments | dict(args)
    try:
        network = factory(**arguments)
    except (UserError, MemoryError):
        raise
    except Exception as error:  # a factory may raise anything
        if is_out_of_memory(error):
            raise
        raise NetworkError(
            f"network {name} cannot be built ({type(error).__name__}: "
            f"{' '.join(str(error).split())}) from {_listed(arguments)}; give it other "
            "arguments with --network_args, such as --network_args '{depth: 28}'"
        ) from error
    if not isinstance(network, nn.Module):
        raise NetworkError(
            f"network {name} must return a torch.nn.Module, got a {type(network).__name__}"
        )
    return network


def _parameters(name: str, factory: Callable[..., Any]) -> Mapping[str, Parameter]:
    try:
        if isinstance(factory, nn.Module):
            raise TypeError("it is a network; give the function that returns one")
        return signature(factory).parameters
    except (TypeError, ValueError) as error:
        raise NetworkError(f"network {name} is not a factory ({error})") from error


def _with_norm(
    name: str, network: nn.Module, norm: str, branches: Sequence[str], *, has_norm: bool
) -> nn.Module:
    """Returns the network with the norm; its factory may have put it in."""
    # Routing loads torch's compiler, 70 MB, which a network with plain batch norms does not need.
    from robustnorm.models.conversion import with_norm
    from robustnorm.norms.routing import branches_of

    if not has_norm:
        try:
            return with_norm(network, norm, branches)
        except ValueError as error:
            raise NetworkError(f"network {name} cannot take the norm '{norm}': {error}") from error
    wanted, found = branches_of(NORMS[norm](1, branches)), branches_of(network)
    if found != wanted:
        raise NetworkError(
            f"network {name} takes norm, but its layers have the branches {found}, not {wanted}: "
            "its factory must create them with norm(num_features)"
        )
    return network


def _layers(norm: str, branches: Sequence[str]) -> Callable[..., nn.Module]:
    """Returns a function with the arguments of ``torch.nn.BatchNorm2d``."""

    def layer(
        num_features: int, eps: float | None = None, momentum: float | None = None
    ) -> nn.Module:
        module: nn.Module = NORMS[NORMS.check(norm)](num_features, branches)
        for key, value in (("eps", eps), ("momentum", momentum)):
            if value is not None:
                setattr(module, key, value)
        return module

    return layer


def _normalized(network: nn.Module, offered: Mapping[str, Any]) -> nn.Module:
    """Returns the network after a normalization of its input, unless it has one itself."""
    mean, std = offered.get("mean", ()), offered.get("std", ())
    state = network.state_dict()
    has_one = any(state[name].numel() == len(mean) for name, _ in normalizations(state))
    identity = not any(mean) and all(value == 1 for value in std)
    return network if has_one or identity else Normalized(network, mean, std)


def _listed(arguments: Mapping[str, Any]) -> str:
    return ", ".join(f"{key}={value}" for key, value in arguments.items() if key != "norm")

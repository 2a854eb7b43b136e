"""Calls a network for attacks and verdicts, whatever its precision and output structure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

from robustnorm.system.errors import UserError
from robustnorm.system.memory import is_out_of_memory
from robustnorm.system.registry import some

Model = Callable[[Tensor], Tensor]

NO_GRADIENT = (
    "the network's logits must have a gradient with respect to its images, and these have none: an "
    "attack that follows gradients needs a forward pass without detach(), no_grad(), NumPy or an "
    "inner optimization; attack a differentiable approximation of it, or use the attack worst, "
    "which then searches without gradients"
)

# In torch's message when a forward pass turns images that require gradients into NumPy arrays.
_REQUIRES_GRADIENT = "requires grad"
# Raised in a network's forward pass; subclasses, such as RoutingError, explain themselves.
_FORWARD_ERRORS = (
    *(RuntimeError, NotImplementedError, IndexError, ValueError, TypeError, KeyError),
    *(AttributeError, AssertionError, ZeroDivisionError),
)


class InputError(UserError):
    """Images, labels, a radius or a network that cannot be attacked soundly."""


class NotFiniteError(InputError):
    """Logits or gradients of an image are not finite.

    Args:
        what: "logits" or "gradients".
        found: The value.
        row: Row of the image in its batch.
        image: Description of the image.
    """

    def __init__(self, what: str, found: float, row: int, image: str = "") -> None:
        self.what, self.found, self.row = what, found, row
        image = image or f"image {row} of its batch"
        consequence = {
            "logits": "they name no class",
            "gradients": "no attack that follows them moves the image",
        }[what]
        super().__init__(
            f"{what} must be finite, but the network gave {found} for {image}, clean or attacked: "
            f"{consequence}; look for a root, a logarithm or a quotient without a lower bound, or "
            "for weights that diverged"
        )

    def of(self, image_ids: Tensor) -> NotFiniteError:
        """Returns the error with the image's id instead of its row."""
        image = f"the image of id {int(image_ids[self.row])}"
        return NotFiniteError(self.what, self.found, self.row, image)


class LogitsModel(nn.Module):
    """Maps images to logits in float32 or float64, whatever the network's input and output types.

    The network receives a copy of the images in the precision of its weights, so a network that
    works in place does not modify the caller's images. The network's autocast applies, the caller's
    does not. Logits are extracted from a tuple, dict or object if they are unambiguous.

    Args:
        model: Images to logits.
        strict: Refuse logits and gradients that are not finite, and logits without a required
            gradient. Synchronizes with the device.
        highest: The highest label; a network with too few classes for it is refused.
        blind: Accept logits without a required gradient.

    Shape:
        images (N, C, H, W) to logits (N, K), K at least 2.

    Raises:
        InputError: When the network fails or returns no such logits.

    Examples:
        >>> network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 2).double())
        >>> model = LogitsModel(lambda images: {"logits": network(images.double())})
        >>> model(torch.rand(4, 3, 2, 2)).shape
        torch.Size([4, 2])
    """

    def __init__(
        self, model: Model, *, strict: bool = False, highest: int = 0, blind: bool = False
    ) -> None:
        super().__init__()
        check_values(model)
        self.model: Any = model
        self._strict, self._highest, self._blind = strict, highest, blind
        self._dtype = precision_of(model)

    # Forwarded to the network: tools read the mode and restore it with train().
    @property
    def training(self) -> bool:
        return "model" in self._modules and bool(getattr(self.model, "training", False))

    @training.setter
    def training(self, mode: bool) -> None:
        """Does nothing: ``train(mode)`` passes the mode on to the network."""

    def forward(self, images: Tensor) -> Tensor:
        copied = images.to(self._dtype or images.dtype, copy=True)
        if self._strict and copied.requires_grad:
            # torch's method has no types.
            copied.register_hook(_check_gradient)  # type: ignore[no-untyped-call]
        try:
            with torch.autocast(images.device.type, enabled=False):
                output = self._output(copied)
        except _FORWARD_ERRORS as error:
            if type(error) not in _FORWARD_ERRORS or is_out_of_memory(error):
                raise
            reason = str(error).partition("\n")[0] or type(error).__name__
            raise InputError(
                f"the network fails on images of shape {tuple(images.shape)} in {copied.dtype}: "
                f"{reason}; {_remedy(images)}"
            ) from error
        logits = find_logits(output, len(images))
        if self._strict:
            self._check(logits, copied)
        return logits.to(torch.promote_types(logits.dtype, torch.float32))

    def _output(self, images: Tensor) -> Any:
        try:
            return self.model(images)
        except RuntimeError as error:
            if not images.requires_grad or _REQUIRES_GRADIENT not in str(error):
                raise
            return self.model(images.detach())

    def _check(self, logits: Tensor, images: Tensor) -> None:
        if self._highest >= logits.shape[1]:
            raise InputError(out_of_range(self._highest, logits.shape[1]))
        check_finite(logits)
        if images.requires_grad and not (logits.requires_grad or self._blind):
            raise InputError(NO_GRADIENT)


def check_values(model: Model) -> None:
    """Raises an InputError when weights are on the meta device, where they have no values."""
    if not isinstance(model, nn.Module):
        return
    tensors = chain(model.named_parameters(), model.named_buffers())
    if empty := [name for name, value in tensors if value.is_meta]:
        raise InputError(
            f"the network's weights must have values, but {len(empty)} of its tensors are on the "
            f"meta device ({some(empty)}): build it on another device, or load weights with "
            "model.load_state_dict(state, assign=True)"
        )


def _remedy(images: Tensor) -> str:
    shape = images.shape
    if len(shape) == 4 and shape[1] not in (1, 3) and shape[3] in (1, 3):
        return "these look like (N, H, W, C): give (N, C, H, W), images.permute(0, 3, 1, 2)"
    return "give images with the channels, height and width that it was built for"


def gradient_of(value: Tensor, images: Tensor, *, keep_graph: bool = False) -> Tensor | None:
    """Returns the gradient of a scalar with respect to images, None if it does not depend on them.

    Args:
        value: Computed from ``images``.
        images: A leaf tensor.
        keep_graph: Keep the graph for another gradient.
    """
    if not value.requires_grad:
        return None
    (gradient,) = torch.autograd.grad(value, images, retain_graph=keep_graph, allow_unused=True)
    found: Tensor | None = gradient
    return found


def attach_gradient(logits: Tensor, images: Tensor) -> Tensor:
    """Returns equal logits with a gradient with respect to the images, zero if they had none."""
    return logits + 0 * images.flatten(1).sum(1, keepdim=True).to(logits)


def precision_of(model: Model) -> torch.dtype | None:
    """Returns the floating-point type of a network's weights, or None if there are several."""
    if not isinstance(model, nn.Module):
        return None
    types = {weight.dtype for weight in model.parameters() if weight.is_floating_point()}
    return types.pop() if len(types) == 1 else None


def find_logits(output: Any, n: int) -> Tensor:
    """Returns the logits (N, K) in a network's output for n images.

    From a dict or an object, takes the entry "logits", or else the only tensor of suitable shape.

    Raises:
        InputError: When there are none, or several.
    """
    values: Iterable[Any]
    if isinstance(output, Tensor):
        values = [output]
    elif isinstance(output, Mapping):
        values = [output["logits"]] if "logits" in output else output.values()
    elif isinstance(getattr(output, "logits", None), Tensor):
        values = [output.logits]
    else:
        parts = getattr(output, "__dict__", {})
        values = output if isinstance(output, tuple | list) else parts.values()
    found = [value for value in values if isinstance(value, Tensor) and _are_logits(value, n)]
    if len(found) != 1:
        raise InputError(
            "the network must return logits, floating point of shape (N, classes) with at least 2 "
            f"classes, got {_describe(output)} for {n} images; wrap it in a module that does"
        )
    return found[0].flatten(1)


def _are_logits(values: Tensor, n: int) -> bool:
    shape = values.shape
    return (
        values.is_floating_point()
        and len(shape) >= 2
        and shape[0] == n
        and shape[1] >= 2
        and all(size == 1 for size in shape[2:])
    )


def _describe(output: Any) -> str:
    if isinstance(output, Tensor):
        return f"{output.dtype} of shape {tuple(output.shape)}"
    if isinstance(output, Mapping):
        return f"a {type(output).__name__} of " + ", ".join(map(str, output))
    if isinstance(output, tuple | list):
        return f"a {type(output).__name__} of " + ", ".join(map(_describe, output))
    return f"a {type(output).__name__}"


def check_finite(logits: Tensor, image_ids: Tensor | None = None) -> None:
    """Raises a NotFiniteError that names the first image with logits that are not finite."""
    _check_rows("logits", logits, image_ids)


def _check_gradient(gradient: Tensor) -> None:
    _check_rows("gradients", gradient.flatten(1))


def _check_rows(what: str, values: Tensor, image_ids: Tensor | None = None) -> None:
    finite = values.isfinite().all(1)
    if finite.all():
        return
    row = int((~finite).nonzero()[0])
    error = NotFiniteError(what, values[row][~values[row].isfinite()][0].item(), row)
    raise error if image_ids is None else error.of(image_ids)


def out_of_range(highest: int, classes: int, name: str = "labels") -> str:
    """Returns the message for a label outside the network's classes."""
    return (
        f"{name} must be from 0 to {classes - 1}, since the network has {classes} classes, got "
        f"{highest}; subtract 1 if they count from 1"
    )

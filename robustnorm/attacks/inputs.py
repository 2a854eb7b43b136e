"""Inputs of attacks and evaluations: converted where the meaning is clear, otherwise refused."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor

from robustnorm.attacks.contract import unchanged, undisturbed
from robustnorm.attacks.limits import check_size
from robustnorm.attacks.logits import NO_GRADIENT, InputError, LogitsModel, Model, out_of_range
from robustnorm.attacks.threat_model import threat_model as find_threat_model

log = logging.getLogger("robustnorm")

# Images may exceed [0, 1] by this much, from rounding.
_ROUNDING = 1e-6
# torch's messages for logits that do not depend differentiably on the images.
_WITHOUT_GRADIENT = ("does not require grad", "not have been used in the graph")


class AttackInputs(NamedTuple):
    """Checked inputs of an attack.

    Attributes:
        model: Images to logits (N, K), float32 or float64.
        images: Detached, float32 or float64, in [0, 1].
        labels: int64 (N,), on the device of the images.
        targets: Target classes in the form of labels, or None.
        epsilon: Radius of the ball.
        original: The images that the caller passed.
    """

    model: LogitsModel
    images: Tensor
    labels: Tensor
    targets: Tensor | None
    epsilon: float
    original: Tensor

    @contextmanager
    def attacking(self) -> Iterator[None]:
        """Leaves the caller's inference mode and autocast; restores network buffers and modes.

        Raises:
            InputError: When the loss has no gradient with respect to the images.
        """
        with undisturbed(), unchanged(self.model):
            try:
                yield
            except RuntimeError as error:
                if not any(words in str(error) for words in _WITHOUT_GRADIENT):
                    raise
                raise InputError(NO_GRADIENT) from error

    def result(self, adv_images: Tensor) -> Tensor:
        """Returns adversarial images in the caller's precision, still in the ball."""
        dtype = self.original.dtype
        with torch.inference_mode(False):
            rounded = adv_images.detach().to(dtype)
            if dtype not in (torch.float16, torch.bfloat16):
                return rounded
            # The bits of positive numbers are ordered: one less is the next smaller number.
            towards = (self.images - rounded.float()).sign().to(torch.int16)
            farther = (rounded.float() - self.images).abs() > (adv_images - self.images).abs()
            nearer = (rounded.view(torch.int16) + towards).view(dtype)
            return torch.where(farther, nearer, rounded)


def admit(
    model: Model,
    images: Tensor,
    labels: Tensor,
    epsilon: float,
    threat_model: str = "linf",
    targets: Tensor | None = None,
    *,
    blind: bool = False,
) -> AttackInputs:
    """Checks the inputs of an attack; every attack calls it. Synchronizes with the device once.

    Args:
        model: Images to logits, see ``LogitsModel``.
        images: Floating point (N, C, H, W) in [0, 1], see ``admit_images``.
        labels: (N,), see ``admit_labels``.
        epsilon: Radius of the ball; may be 0.
        threat_model: Threat model of the ball.
        targets: Target classes in the form of labels; none may equal the label.
        blind: Accept a network whose logits have no gradient.

    Raises:
        InputError: On invalid inputs.
    """
    given = admit_images(images)
    classes = admit_labels(labels, given)
    aims = None if targets is None else admit_labels(targets, given, "targets")
    if aims is not None and (aims == classes).any():
        raise InputError("targets must differ from the image's label")
    try:
        find_threat_model(threat_model)
        check_size("epsilon", epsilon, threat_model, zero=True, most=_reach(given, threat_model))
    except ValueError as error:
        raise InputError(str(error)) from None
    highest = max(int(v.max()) for v in (classes, aims) if v is not None) if len(given) else 0
    checked = LogitsModel(model, strict=True, highest=highest, blind=blind)
    return AttackInputs(checked, given, classes, aims, float(epsilon), images)


def _reach(images: Tensor, threat_model: str) -> float:
    """Returns the radius of an L2 ball that contains every image."""
    return float(images[0].numel() ** 0.5) if threat_model == "l2" and len(images) else 0.0


@torch.inference_mode(False)
def admit_images(images: Tensor, *, integers: bool = False) -> Tensor:
    """Converts images for attacks: detached, float32 or float64, in [0, 1].

    Half precision becomes float32, which represents its values exactly. Values that rounding put
    outside [0, 1] are clamped with a warning.

    Args:
        images: Floating point (N, C, H, W).
        integers: Whether to accept uint8, too, and return it unchanged.

    Raises:
        InputError: On anything else; the usual cause is normalization outside the model.
    """
    kinds = ("uint8 or " if integers else "") + "floating point of shape (N, C, H, W) in [0, 1]"
    if not isinstance(images, Tensor):
        raise InputError(
            f"images must be {kinds}, got a {type(images).__name__}; call torch.as_tensor"
        )
    if (
        not (images.is_floating_point() or (integers and images.dtype == torch.uint8))
        or images.layout != torch.strided
        or images.device.type == "meta"
        or images.dim() < 2
    ):
        raise InputError(
            f"images must be {kinds}, got {images.dtype} of shape {tuple(images.shape)}"
            + (f", {images.layout}" if images.layout != torch.strided else "")
            + (", on no device" if images.device.type == "meta" else "")
        )
    images = images.detach()
    if images.is_inference():
        images = images.clone()
    if not images.is_floating_point():
        return images
    images = images.to(torch.promote_types(images.dtype, torch.float32))
    if not images.numel():
        return images
    low, high = torch.stack(images.aminmax()).tolist()
    if not (low >= -_ROUNDING and high <= 1 + _ROUNDING):
        raise InputError(
            f"images must lie in [0, 1], got values from {low:.4g} to {high:.4g}; mean and "
            "std normalization belong inside the model"
        )
    if low < 0 or high > 1:
        log.warning("images with values from %.4g to %.9g are clamped to [0, 1]", low, high)
        images = images.clamp(0, 1)
    return images


@torch.inference_mode(False)
def admit_labels(labels: Tensor, images: Tensor, name: str = "labels") -> Tensor:
    """Converts labels for attacks: int64 (N,), on the device of the images.

    Casts any integer type, squeezes (N, 1), and converts one-hot rows (N, K) to classes.

    Raises:
        InputError: On anything else, except labels above the number of classes, which is unknown.
    """
    n = len(images)
    if not isinstance(labels, Tensor) or labels.device.type == "meta":
        kind = "tensor on no device" if isinstance(labels, Tensor) else type(labels).__name__
        raise InputError(
            f"{name} must be int64 of shape ({n},), got a {kind}; call torch.as_tensor"
        )
    found = labels.detach().to(images.device)
    if found.dim() == 2 and found.shape[1] == 1:
        found = found[:, 0]
    elif found.dim() == 2 and len(found) == n and not found.is_complex() and _one_hot(found):
        found = found.long().argmax(1)
    integers = not (found.is_floating_point() or found.is_complex() or found.dtype == torch.bool)
    if not integers or found.shape != (n,):
        raise InputError(
            f"{name} must be int64 of shape ({n},), got {labels.dtype} of shape "
            f"{tuple(labels.shape)}; give the class of each image as an integer from 0"
        )
    found = found.to(torch.int64, copy=True)
    if n and int(found.min()) < 0:
        raise InputError(
            f"{name} must be classes from 0, got {int(found.min())} for image "
            f"{int((found < 0).nonzero()[0])}; leave out images without a label"
        )
    return found


def _one_hot(rows: Tensor) -> bool:
    """Returns whether each row has a single 1 and otherwise zeros."""
    return bool((((rows == 0) | (rows == 1)).all() & (rows.long().sum(1) == 1).all()).item())


def check_classes(labels: Tensor, classes: int, name: str = "labels") -> None:
    """Raises an InputError when a label exceeds the number of classes."""
    if len(labels) and int(labels.max()) >= classes:
        raise InputError(out_of_range(int(labels.max()), classes, name))

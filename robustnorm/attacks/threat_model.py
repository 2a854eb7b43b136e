"""Threat models: the perturbations that an attack may use."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from robustnorm.system.registry import unknown


@dataclass(frozen=True)
class ThreatModel:
    """A ball of radius epsilon around each image, within [0, 1].

    Attributes:
        project: (adv_images, images, epsilon) to the projected images.
        random_start: (images, epsilon, generator) to images drawn uniformly from the ball, then
            clipped to [0, 1].
        ascend: (gradient, step_size) to the change of that size that raises the loss most.
        distance: (adv_images, images) to the distance of each image, (N,).
    """

    project: Callable[[Tensor, Tensor, float], Tensor]
    random_start: Callable[[Tensor, float, torch.Generator], Tensor]
    ascend: Callable[[Tensor, float], Tensor]
    distance: Callable[[Tensor, Tensor], Tensor]

    def contains(
        self, adv_images: Tensor, images: Tensor, epsilon: float, tolerance: float = 1e-6
    ) -> Tensor:
        """Returns whether each image lies in the ball and in [0, 1], bool (N,).

        Args:
            adv_images: (N, ...).
            images: (N, ...), in [0, 1].
            epsilon: Radius.
            tolerance: Allowed excess, relative to a radius above 1, besides what rounding each
                value to the images' precision can add.
        """
        flat = adv_images.flatten(1)
        in_range = (flat.amin(1) >= -tolerance) & (flat.amax(1) <= 1 + tolerance)
        half_unit = torch.full_like(flat[:1], torch.finfo(flat.dtype).eps / 4)  # below 1
        rounding = self.distance(half_unit, torch.zeros_like(half_unit))
        farthest = epsilon + tolerance * max(1, epsilon) + rounding
        return in_range & (self.distance(adv_images, images) <= farthest)


def threat_model(name: str) -> ThreatModel:
    """Returns the threat model of that name.

    Raises:
        ValueError: On an unknown name; the message lists the known ones.
    """
    if name not in THREAT_MODELS:
        raise ValueError(unknown("threat model", name, list(THREAT_MODELS)))
    return THREAT_MODELS[name]


def _uniform(images: Tensor, generator: torch.Generator) -> Tensor:
    return _draw(torch.rand, images, generator)


def _draw(
    distribution: Callable[..., Tensor], images: Tensor, generator: torch.Generator
) -> Tensor:
    # On the generator's device and in float32, so that a CPU generator gives the same start on any
    # device and for images of any precision.
    options = {"device": generator.device, "dtype": torch.float32}
    drawn = distribution(images.shape, generator=generator, **options)
    return drawn.to(images.device, images.dtype)


def _per_image(values: Tensor, images: Tensor) -> Tensor:
    return values.view(-1, *[1] * (images.dim() - 1))


def _linf_project(adv_images: Tensor, images: Tensor, epsilon: float) -> Tensor:
    return (images + (adv_images - images).clamp(-epsilon, epsilon)).clamp(0, 1)


def _linf_random_start(images: Tensor, epsilon: float, generator: torch.Generator) -> Tensor:
    noise = (2 * _uniform(images, generator) - 1) * epsilon
    return (images + noise).clamp(0, 1)


def _linf_ascend(gradient: Tensor, step_size: float) -> Tensor:
    return step_size * gradient.sign()


def _linf_distance(adv_images: Tensor, images: Tensor) -> Tensor:
    return (adv_images - images).abs().flatten(1).amax(1)


def widest(device: torch.device) -> torch.dtype:
    """Returns the type for sums over pixels: float64, which Apple's GPUs do not have.

    A float32 sum over the pixels of a large image is off by several 1e-6, and the squares of a
    small gradient are 0.
    """
    return torch.float32 if device.type == "mps" else torch.float64


def _l2_norm(values: Tensor) -> Tensor:
    exact = widest(values.device)
    norms: Tensor = torch.linalg.vector_norm(values.flatten(1), dim=1, dtype=exact)
    return norms


def _l2_scale(values: Tensor, factors: Tensor) -> Tensor:
    return (values * _per_image(factors, values)).to(values.dtype)


def _l2_project(adv_images: Tensor, images: Tensor, epsilon: float) -> Tensor:
    # Onto the ball, then clipped. Since images lie in [0, 1], clipping moves no pixel away from its
    # image, so the result is in both sets (though not always the nearest point of both).
    perturbation = adv_images - images
    factor = (epsilon / _l2_norm(perturbation).clamp_min(1e-12)).clamp_max(1)
    return (images + _l2_scale(perturbation, factor)).clamp(0, 1)


def _l2_random_start(images: Tensor, epsilon: float, generator: torch.Generator) -> Tensor:
    direction = _draw(torch.randn, images, generator)
    dimensions = images[0].numel()
    radius = _uniform(images.flatten(1)[:, 0], generator) ** (1 / dimensions) * epsilon
    return (images + _l2_scale(direction, radius / _l2_norm(direction))).clamp(0, 1)


def _l2_ascend(gradient: Tensor, step_size: float) -> Tensor:
    norms = _l2_norm(gradient)
    # A gradient of zero stays zero.
    return _l2_scale(gradient, torch.where(norms > 0, step_size / norms, 0.0))


def _l2_distance(adv_images: Tensor, images: Tensor) -> Tensor:
    return _l2_norm(adv_images - images)


THREAT_MODELS = {
    "linf": ThreatModel(_linf_project, _linf_random_start, _linf_ascend, _linf_distance),
    "l2": ThreatModel(_l2_project, _l2_random_start, _l2_ascend, _l2_distance),
}

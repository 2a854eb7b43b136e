"""Networks of two pixels whose gradients mislead; what is true is found by trying all points."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from trap_cases import Trap
from trap_truth import by_grid

EPSILON, CLASSES = 0.05, 10
# Around the middle, in the directions of the classes, or 3 degrees from the border of two.
_ANGLES = np.deg2rad(36 * np.arange(16) + np.where(np.arange(16) % 2, 0, 15))
FLAT = 0.5 + 0.38 * np.stack([np.cos(_ANGLES), np.sin(_ANGLES)], 1).astype(np.float32)
IMAGES = torch.from_numpy(FLAT).view(-1, 1, 1, 2)


class Plane(nn.Module):
    """Two pixels to ten classes: which of ten directions they lie in from the middle."""

    def forward(self, images: Tensor) -> Tensor:
        angles = torch.arange(CLASSES) * (2 * torch.pi / CLASSES)
        return (images.flatten(1) - 0.5) @ torch.stack([angles.cos(), angles.sin()])


class Around(nn.Module):
    """The plane behind something, in front of something."""

    def __init__(self, before: Any = None, after: Any = None) -> None:
        super().__init__()
        self.plane, self.before, self.after = Plane(), before, after
        self.eval()

    def forward(self, images: Tensor) -> Tensor:
        images = images if self.before is None else self.before(images)
        logits: Tensor = self.plane(images)
        return logits if self.after is None else self.after(logits, images)


@torch.no_grad()
def answer(model: nn.Module, points: Any) -> Any:
    logits = model(torch.from_numpy(np.asarray(points, np.float32)).view(-1, 1, 1, 2))
    # An image without an answer is not answered rightly.
    return torch.where(logits.isfinite().all(1), logits.argmax(1), -1).numpy()


def masked(name: str, build: Callable[[], nn.Module], truth_of: Any = None) -> Trap:
    true = truth_of or build()
    labels = answer(true, FLAT)
    truth = by_grid(lambda points: answer(true, points), FLAT, labels, EPSILON)
    return Trap(name, build, IMAGES, torch.from_numpy(labels), EPSILON, truth)


def rounded(images: Tensor) -> Tensor:
    return (images * 16).round() / 16


def straight_through(images: Tensor) -> Tensor:
    return images + (rounded(images) - images).detach()


def without_grad(images: Tensor) -> Tensor:
    with torch.no_grad():
        return images * 1.0


def by_numpy(images: Tensor) -> Tensor:
    return torch.from_numpy(images.detach().numpy().copy())


def purified(images: Tensor) -> Tensor:
    """Takes a step of its own against the loudest class, by gradients of its own."""
    leaf = images.detach().clone().requires_grad_()
    with torch.enable_grad():
        (gradient,) = torch.autograd.grad(Plane()(leaf).logsumexp(1).sum(), leaf)
    return images.detach() - 0.01 * gradient


def purified_without_enabling(images: Tensor) -> Tensor:
    leaf = images.clone()
    (gradient,) = torch.autograd.grad(Plane()(leaf).logsumexp(1).sum(), leaf)
    return images - 0.01 * gradient


def shattered(images: Tensor) -> Tensor:
    return images + 0.02 * torch.sin(400 * images)


def no_answer(logits: Tensor, images: Tensor) -> Tensor:
    """Not a number wherever a pixel has more than two digits: nearly everywhere but here."""
    clean = (images.flatten(1)[:, None] - IMAGES.flatten(1)[None]).abs().amax(2).amin(1) < 1e-7
    return torch.where(clean[:, None], logits, torch.nan)


def infinite(logits: Tensor, images: Tensor) -> Tensor:
    clean = (images.flatten(1)[:, None] - IMAGES.flatten(1)[None]).abs().amax(2).amin(1) < 1e-7
    return torch.where(clean[:, None], logits, torch.inf)


def rooted(logits: Tensor, images: Tensor) -> Tensor:
    """Adds the root of zero, whose slope is infinite."""
    return logits + (images - images).flatten(1).sum(1, keepdim=True).abs().sqrt()


def stepped(logits: Tensor, images: Tensor) -> Tensor:
    return nn.functional.one_hot(logits.argmax(1), CLASSES).float()


def flat_top(logits: Tensor, images: Tensor) -> Tensor:
    """Flat while the answer is sure: no slope at the image, one at the border."""
    return logits.clamp(-0.02, 0.02)


MASKED = [
    masked("a plane, as it is", Around),
    masked("images rounded to 16 levels", lambda: Around(rounded)),
    masked("images rounded, gradient passed straight through", lambda: Around(straight_through)),
    masked("images detached", lambda: Around(lambda images: images.detach())),
    masked("forward without gradients", lambda: Around(without_grad)),
    masked("forward through NumPy", lambda: Around(by_numpy)),
    masked("optimization in the forward", lambda: Around(purified)),
    masked("optimization that needs gradients on", lambda: Around(purified_without_enabling),
           truth_of=Around(purified)),
    masked("shattered gradients", lambda: Around(shattered)),
    masked("NaN for every image but the clean ones", lambda: Around(after=no_answer)),
    masked("infinite for every image but the clean ones", lambda: Around(after=infinite)),
    masked("gradients that are NaN", lambda: Around(after=rooted)),
    masked("answers that are steps", lambda: Around(after=stepped)),
    masked("logits cut off", lambda: Around(after=flat_top)),
    masked("logits x 10^7, saturated",
           lambda: Around(after=lambda logits, _: 1e7 * logits)),
]  # fmt: skip

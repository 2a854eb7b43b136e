"""Inputs on which an evaluation goes wrong unless it looks, each with its true answer.

Most are one and the same linear network and 20 images, given in another form: what is true of it is
known by a formula. ``truth`` is None where the question has no answer: a refusal alone is right.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from trap_truth import linear_in_box, linear_radii, widest_gap

SHAPE, CLASSES, N = (3, 4, 4), 12, 20
# AutoAttack's Square divides by a fifth of the height with L2: no problem of images of usual size.
SHAPES = {"linf": SHAPE, "l2": (3, 8, 8)}


class Trap(NamedTuple):
    """One input, and what is true of it.

    Attributes:
        name: In a few words.
        model: Makes the network.
        images: What is attacked.
        labels: Its classes.
        epsilon: Radius that the user gives.
        truth: Robust accuracy at the radius that the user means; None where there is none.
        threat_model: "linf" or "l2".
        around: Context of the call.
    """

    name: str
    model: Callable[[], Any]
    images: Any
    labels: Any
    epsilon: Any
    truth: float | None
    threat_model: str = "linf"
    around: Callable[[], contextlib.AbstractContextManager[Any]] = contextlib.nullcontext


def _linear(classes: int = CLASSES, seed: int = 0, shape: tuple[int, ...] = SHAPE) -> Any:
    """Returns weight, bias, images and labels of a linear problem; three labels are wrong."""
    rng = np.random.default_rng(seed)
    size = int(np.prod(shape))
    weight = rng.normal(size=(classes, size))
    bias = -weight.sum(1) / 2  # from the middle of all images
    # Each image lies in the direction of a class: every other one far, the rest near the border, so
    # that any attack that works tells them apart.
    towards = weight[np.arange(N) % classes] / np.abs(weight).max()
    far = np.where(np.arange(N) % 2, 0.25, 0.04)[:, None]
    images = 0.5 + far * towards + rng.normal(0, 0.005, (N, size))
    images = images.astype(np.float32).astype(np.float64)
    labels = (images @ weight.T + bias).argmax(1)
    labels[:3] = (labels[:3] + 1) % classes
    return SimpleNamespace(weight=weight, bias=bias, flat=images, labels=labels, shape=shape)


class Linear(nn.Module):
    """Logits of a linear problem, changed on the way in and out."""

    def __init__(self, problem: Any, before: Any = None, after: Any = None) -> None:
        super().__init__()
        classes, size = problem.weight.shape
        self.linear = nn.Linear(size, classes)
        with torch.no_grad():
            self.linear.weight.copy_(torch.from_numpy(problem.weight))
            self.linear.bias.copy_(torch.from_numpy(problem.bias))
        self.before, self.after = before, after
        self.eval()

    def forward(self, images: Tensor) -> Any:
        if self.before is not None:
            images = self.before(images)
        logits = self.linear(images.flatten(1))
        return logits if self.after is None else self.after(logits)


BASE = _linear()
IMAGES = torch.from_numpy(BASE.flat).float().view(N, *SHAPE)
LABELS = torch.from_numpy(BASE.labels)
_RADII = linear_radii(BASE.weight, BASE.bias, BASE.flat, BASE.labels, "linf")
EPSILON = widest_gap(_RADII)
TRUTH = float((_RADII > EPSILON).mean())


def network(before: Any = None, after: Any = None, problem: Any = BASE) -> Callable[[], nn.Module]:
    return lambda: Linear(problem, before, after)


def same(name: str, **changes: Any) -> Trap:
    """The base problem in another form: its robust accuracy is ``TRUTH``."""
    given = {"model": network(), "images": IMAGES, "labels": LABELS, "epsilon": EPSILON}
    return Trap(name, **(given | {"truth": TRUTH} | changes))


def other(name: str, classes: int, norm: str = "linf", **changes: Any) -> Trap:
    """A linear problem of its own."""
    problem = _linear(classes, seed=classes, shape=SHAPES[norm])
    radii = linear_radii(problem.weight, problem.bias, problem.flat, problem.labels, norm)
    epsilon = widest_gap(radii)
    given = {
        "model": network(problem=problem),
        "images": torch.from_numpy(problem.flat).float().view(N, *problem.shape),
        "labels": torch.from_numpy(problem.labels),
        "epsilon": epsilon,
        "truth": float((radii > epsilon).mean()),
        "threat_model": norm,
    }
    return Trap(name, **(given | changes))


def in_the_box() -> Trap:
    rng = np.random.default_rng(7)
    flat = rng.choice([0.0, 1.0], size=(N, BASE.flat.shape[1]))
    bias = BASE.bias + BASE.weight @ (BASE.flat.mean(0) - flat.mean(0))
    problem = SimpleNamespace(weight=BASE.weight, bias=bias)
    labels = (flat @ BASE.weight.T + bias).argmax(1)
    radii = list(np.linspace(0.01, 0.4, 40))
    counts = [linear_in_box(BASE.weight, bias, flat, labels, e) for e in radii]
    epsilon = next(e for e, count in zip(radii, counts, strict=True) if count < 0.6)
    return Trap(
        "images of black and white pixels only",
        network(problem=problem),
        torch.from_numpy(flat).float().view(N, *SHAPE),
        torch.from_numpy(labels),
        epsilon,
        linear_in_box(BASE.weight, bias, flat, labels, epsilon),
    )


def below_zero() -> Trap:
    """An image of the base problem with a pixel that rounding made -3e-8: it means 0."""
    flat = BASE.flat.copy()
    flat[4, 0] = 0
    truth = linear_in_box(BASE.weight, BASE.bias, flat, BASE.labels, EPSILON)
    flat[4, 0] = -3e-8
    images = torch.from_numpy(flat).float().view(N, *SHAPE)
    return same("an image value of -3e-8", images=images, truth=truth)


def in_place(images: Tensor) -> Tensor:
    return images.sub_(0.25).mul_(2)


def shifted() -> Any:
    """The problem whose network undoes ``in_place``: half the weight, a shifted bias."""
    weight = BASE.weight / 2
    return SimpleNamespace(weight=weight, bias=BASE.bias + BASE.weight.sum(1) * 0.25)


def asks_for_tensors(images: Any) -> Any:
    """Undoes itself for a tensor; whatever is traced in its place goes another way."""
    return (images * 2) / 2 if isinstance(images, Tensor) else images * 0


def hooked() -> nn.Module:
    model = Linear(shifted())
    model.register_forward_pre_hook(lambda module, inputs: ((inputs[0] - 0.25) * 2,))
    return model


def inference_weights() -> nn.Module:
    with torch.inference_mode():
        return Linear(BASE)


def in_training_mode() -> nn.Module:
    model = nn.Sequential(nn.BatchNorm2d(3), Linear(BASE))
    return model.train()


def plain(change: Callable[[nn.Module], nn.Module]) -> Callable[[], nn.Module]:
    return lambda: change(Linear(BASE)).eval()


def offset() -> nn.Module:
    problem = SimpleNamespace(weight=BASE.weight, bias=BASE.bias + 3000)
    return Linear(problem)


FORMS = [
    same("labels int32", labels=LABELS.int()),
    same("labels uint8", labels=LABELS.to(torch.uint8)),
    same("labels (N, 1)", labels=LABELS[:, None]),
    same("labels one-hot", labels=nn.functional.one_hot(LABELS, CLASSES)),
    same("labels one-hot, float", labels=nn.functional.one_hot(LABELS, CLASSES).float()),
    same("labels counted from 1", labels=LABELS + 1),
    same("labels counted from 1, none of the last class",
         labels=(LABELS + 1).clamp_max(CLASSES - 1)),
    same("a label of -1", labels=torch.cat([LABELS[:-1], torch.tensor([-1])]), truth=None),
    same("labels as a list", labels=LABELS.tolist()),
    same("labels of one image fewer", labels=LABELS[:-1], truth=None),
    same("images float64", images=torch.from_numpy(BASE.flat).view(N, *SHAPE)),
    same("images float16", images=IMAGES.half()),
    same("images bfloat16", images=IMAGES.bfloat16()),
    same("images uint8", images=(IMAGES * 255).round().to(torch.uint8)),
    same("images 0 to 255", images=IMAGES * 255),
    same("images normalized outside the network", images=(IMAGES - 0.5) / 0.25,
         model=network(before=lambda images: images * 0.25 + 0.5)),
    below_zero(),
    same("an image value of NaN", images=IMAGES.clone().index_put_(
        (torch.tensor(0),) * 4, torch.tensor(torch.nan)), truth=None),
    same("images channels-last", images=IMAGES.contiguous(memory_format=torch.channels_last)),
    same("images transposed, not contiguous", images=IMAGES.transpose(2, 3),
         model=network(before=lambda images: images.transpose(2, 3))),
    same("images that require gradients", images=IMAGES.clone().requires_grad_()),
    same("one image", images=IMAGES[5:6], labels=LABELS[5:6], truth=float(_RADII[5] > EPSILON)),
    same("no image", images=IMAGES[:0], labels=LABELS[:0], truth=None),
    same("epsilon 8 for 8/255", epsilon=EPSILON * 255, truth=TRUTH),
    same("epsilon as text", epsilon=f"{EPSILON}", truth=TRUTH),
    same("epsilon negative", epsilon=-EPSILON, truth=None),
    same("epsilon 1e-99", epsilon=1e-99, truth=float((_RADII > 0).mean())),
    same("epsilon not a number", epsilon=float("nan"), truth=None),
    same("a caller's inference mode", around=torch.inference_mode),
    same("a caller's no_grad", around=torch.no_grad),
    same("a caller's autocast, logits far from 0", model=offset,
         around=lambda: torch.autocast("cpu", torch.bfloat16)),
]  # fmt: skip

_L2 = other("12 classes, L2", 12, "l2")
NETWORKS = [
    same("network float64", model=plain(lambda model: model.double())),
    same("network float16", model=plain(lambda model: model.half())),
    same("network bfloat16", model=plain(lambda model: model.bfloat16())),
    same("output (logits,)", model=network(after=lambda logits: (logits,))),
    same("output (logits, features)",
         model=network(after=lambda logits: (logits, logits[:, :, None, None].repeat(1, 1, 2, 2)))),
    same("output dict", model=network(after=lambda logits: {"logits": logits})),
    same("output object", model=network(after=lambda logits: SimpleNamespace(logits=logits))),
    same("output (N, K, 1, 1)", model=network(after=lambda logits: logits[:, :, None, None])),
    same("output of one number", model=network(after=lambda logits: logits[:, :1]), truth=None),
    same("output of classes", model=network(after=lambda logits: logits.argmax(1)), truth=None),
    same("network that works in place", model=network(before=in_place, problem=shifted())),
    same("hook that normalizes", model=hooked),
    same("forward that asks for tensors", model=network(before=asks_for_tensors)),
    same("softmax at the end", model=network(after=lambda logits: logits.softmax(1))),
    same("logits x 0.001", model=network(after=lambda logits: logits / 1000)),
    same("logits x 100,000", model=network(after=lambda logits: logits * 1e5)),
    same("logits + 3,000", model=offset),
    same("network in train mode", model=in_training_mode, truth=None),
    same("dropout that is always on",
         model=network(before=lambda images: nn.functional.dropout(images, 0.2, True)), truth=None),
    same("images centred by the batch's mean",
         model=network(before=lambda images: images - images.mean(0) + 0.5), truth=None),
    same("weights made in inference mode", model=inference_weights),
    same("a function, no module", model=lambda: Linear(BASE).forward),
    same("traced by torch.jit", model=lambda: torch.jit.trace(Linear(BASE), IMAGES[:2])),
    other("2 classes", 2), other("3 classes", 3), other("4 classes", 4), other("9 classes", 9),
    other("2 classes, L2", 2, "l2"), _L2,
    _L2._replace(name="L2, channels-last",
                 images=_L2.images.contiguous(memory_format=torch.channels_last)),
    in_the_box(),
]  # fmt: skip

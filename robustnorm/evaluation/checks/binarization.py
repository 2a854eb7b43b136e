"""The binarization test: attacks networks for which an adversarial example is known to exist."""

from __future__ import annotations

import copy
from typing import NamedTuple

import torch
from torch import Tensor, nn

from robustnorm.attacks.logits import InputError, LogitsModel
from robustnorm.attacks.threat_model import threat_model as find_threat_model
from robustnorm.evaluation.attack import attack_chunk
from robustnorm.evaluation.checks.measure import Tier, prepare, surface
from robustnorm.evaluation.chunks import padded_rows, whole_chunks
from robustnorm.evaluation.search import Search, branches
from robustnorm.norms.routing import bind
from robustnorm.records.journal import Key

# Unperturbed points lie within this fraction of the radius; perturbed ones lie at the full radius.
_INNER = 0.95


class Binarized(NamedTuple):
    """For each tested image, whether PGD broke it, and the fraction of random points that did."""

    broken: Tensor
    random: Tensor


class Readouts(nn.Module):
    """Computes two logits from features: readout i classifies row i; 1 means "perturbed".

    Args:
        weight: (N, F).
        bias: (N,).

    Shape:
        features (N, F) to logits (N, 2).
    """

    weight: Tensor
    bias: Tensor

    def __init__(self, weight: Tensor, bias: Tensor) -> None:
        super().__init__()
        self.register_buffer("weight", weight)
        self.register_buffer("bias", bias)

    def forward(self, features: Tensor) -> Tensor:
        score = (features * self.weight).sum(1) + self.bias
        return torch.stack([-score, score], 1) / 2


def binarize(
    model: nn.Module,
    branch: str,
    images: Tensor,
    image_ids: Tensor,
    search: Search,
    tier: Tier,
    generator: torch.Generator,
) -> Binarized | None:
    """Runs the binarization test on one branch; None if the network has no suitable features.

    Points within 0.95 epsilon of each image are labelled unperturbed, and one point at epsilon
    perturbed. A linear readout of the penultimate features that separates the two replaces the
    linear layer that is called last. At least one point of the ball is then classified as
    perturbed, so a sound attack on the image must find such a point. The readout is Fisher's
    discriminant; its threshold lies halfway between the two classes, and its outputs have the range
    of the network's logits.

    Args:
        model: In evaluation mode.
        branch: The branch; any name for a network without branches.
        images: (N, C, H, W), floating point in [0, 1], at most ``CHUNK``.
        image_ids: int64 (N,), on the CPU.
        search: The attack to check, with one number of steps.
        tier: Numbers of points.
        generator: Draws the points, on the CPU.

    References:
        Zimmermann et al., Increasing Confidence in Adversarial Robustness Evaluations, NeurIPS
        2022, arXiv:2206.13991; the authors' code fits a logistic regression.
    """
    network, rows, readouts, random = bind(model, branch), [], [], []
    name = _last_linear(model, network, images[:1])
    if name is None:
        return None
    layer = model.get_submodule(name)
    for row, image in enumerate(images):
        points = _points(image, search, tier, generator)
        features = _features(network, layer, points)
        if features is None:
            return None
        inner, perturbed, fresh = torch.split(features, [tier.inner + 1, 1, tier.draws])
        readout = _readout(inner, perturbed[0], layer(features))
        if readout is not None:
            rows.append(row)
            readouts.append(readout)
            random.append((fresh @ readout.weight + readout.bias > 0).double().mean())
    if not rows:
        return None
    binarized = copy.deepcopy(model)
    # Whole chunks are attacked, so the last readout is repeated.
    padded = padded_rows(len(rows), whole_chunks(len(rows)))
    weight, bias = (torch.stack(values)[padded] for values in zip(*readouts, strict=True))
    binarized.set_submodule(name, Readouts(weight, bias).eval())
    images, labels = images[rows], torch.zeros(len(rows), dtype=torch.int64, device="cpu")
    if not _has_two_logits(bind(binarized, branch), images[padded]):
        return None
    attacked = [prepare(b)[0] for b in branches(binarized) if b.name == branch]
    outcomes = attack_chunk(attacked, images, labels, image_ids[rows], search)
    key = Key(f"pgd-{max(search.steps)}", "final", branch, branch)
    return Binarized(~outcomes[key].correct, torch.stack(random))


class _Readout(NamedTuple):
    weight: Tensor
    bias: Tensor


def _points(image: Tensor, search: Search, tier: Tier, generator: torch.Generator) -> Tensor:
    """Returns the image, unperturbed points, one perturbed point, and random points."""
    ball = find_threat_model(search.threat_model)
    inner = image.expand(tier.inner, *image.shape)
    inner = ball.random_start(inner, _INNER * search.epsilon, generator)
    outer = surface(image.expand(1 + tier.draws, *image.shape), search, generator)
    return torch.cat([image[None], inner, outer])


@torch.no_grad()
def _last_linear(model: nn.Module, network: nn.Module, images: Tensor) -> str | None:
    """Returns the name of the linear layer that is called last, or None if none is called.

    A layer that comes last in ``model.modules()`` may be a gate of ModeNorm.
    """
    called: list[str] = []
    handles = [
        module.register_forward_pre_hook(lambda *_, name=name: called.append(name))
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear)
    ]
    try:
        network(images)
    finally:
        for handle in handles:
            handle.remove()
    return called[-1] if called else None


@torch.no_grad()
def _has_two_logits(network: nn.Module, images: Tensor) -> bool:
    """Returns whether the readouts' logits are the network's, not only part of what it computes."""
    try:
        return bool(LogitsModel(network)(images).shape[1] == 2)
    except InputError:
        return False


@torch.no_grad()
def _features(network: nn.Module, layer: nn.Module, images: Tensor) -> Tensor | None:
    """Returns the inputs of a linear layer, (N, F); None if it has inputs of another shape."""
    seen: list[Tensor] = []
    handle = layer.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    try:
        network(images)
    finally:
        handle.remove()
    return seen[0] if len(seen) == 1 and seen[0].dim() == 2 else None


@torch.no_grad()
def _readout(inner: Tensor, perturbed: Tensor, logits: Tensor) -> _Readout | None:
    """Returns a readout that separates the perturbed point from all others, or None."""
    mean = inner.mean(0)
    centered = inner - mean
    spread = centered.T @ centered / len(inner)  # (F, F)
    # With fewer points than features the covariance is singular; each direction therefore gets
    # the average variance on top.
    spread.diagonal().add_(spread.diagonal().mean().clamp_min(torch.finfo(spread.dtype).tiny))
    weight = torch.linalg.solve(spread, perturbed - mean)
    low, high = (inner @ weight).max(), perturbed @ weight
    if not high > low:
        return None
    bias = -(low + high) / 2
    scores = torch.cat([inner @ weight, high[None]]) + bias
    scale = (logits.max() - logits.min()) / scores.abs().max()
    return _Readout(scale * weight, scale * bias)

"""Content and style loss, and further measures of stylized pictures."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from robustnorm.applications.style.network import StyleNetwork
from robustnorm.norms.ilm import ILMAdaIN
from robustnorm.norms.instance import AdaIN, SaAdaIN, instance_statistics


class Losses(NamedTuple):
    """Content and style loss of a batch, unweighted scalars."""

    content: Tensor
    style: Tensor


def losses(network: StyleNetwork, content: Tensor, style: Tensor, *, content_target: str) -> Losses:
    r"""Returns the losses of AdaIN's training for a batch.

    With e the encoder, d the decoder, t the norm's output and g = d(t), the content loss is the
    mean of :math:`(e(g) - t)^2` over the deepest features. t depends on the norm's parameters, so
    "moving", as in the authors' release, lets the optimizer move the target towards what the
    decoder can reach; "detached" treats t as a constant.

    Args:
        network: The network to train.
        content: Pictures (N, 3, H, W) in [0, 1].
        style: Pictures (N, 3, H', W').
        content_target: "moving" or "detached".

    Raises:
        ValueError: On another ``content_target``.

    References:
        Huang & Belongie, arXiv:1703.06868, Eq. 11 to 13, with squared distances as in their code.
    """
    if content_target not in ("moving", "detached"):
        raise ValueError(f"content_target must be moving or detached, got {content_target}")
    style_features = network.encoder(style)
    target = network.norm(network.encoder(content)[-1], style_features[-1])
    output_features = network.encoder(network.decoder(target))
    wanted = target.detach() if content_target == "detached" else target
    return Losses(
        F.mse_loss(output_features[-1], wanted),
        style_loss(output_features, style_features, unbiased=network.norm.unbiased),
    )


def style_loss(
    output: Sequence[Tensor], style: Sequence[Tensor], *, unbiased: bool = False
) -> Tensor:
    """Returns the squared distances of channel means and standard deviations, summed over stages.

    Args:
        output: Features of the stylized pictures, (N, C, H, W) per stage.
        style: Features of the style pictures, of any height and width.
        unbiased: As in ``AdaIN``.

    Returns:
        A scalar: the mean over N and C of both squared distances, summed over the stages.
    """
    loss = output[0].new_zeros(())
    for features, style_features in zip(output, style, strict=True):
        mean, std = instance_statistics(features, unbiased=unbiased)
        style_mean, style_std = instance_statistics(style_features, unbiased=unbiased)
        loss = loss + F.mse_loss(mean, style_mean) + F.mse_loss(std, style_std)
    return loss


class StyleMeasures(NamedTuple):
    """Measures on fixed pairs of content and style, averaged over the pairs.

    Attributes:
        content: Content loss as in the paper's Figure 7: the output's features compared with the
            norm's output.
        fixed: The same features compared with AdaIN's output, which no parameter can move.
        relative: ``content`` divided by the target's spatial variance: 1 if each channel of the
            features is constant, at the target's mean.
        structure: Distance between the instance-normalized features of output and content: 0 if
            equal, 2 if unrelated.
        style: Style loss.
        gamma: Mean weight applied between normalization and style statistics; 1 for AdaIN.
    """

    content: float
    fixed: float
    relative: float
    structure: float
    style: float
    gamma: float


@torch.no_grad()
def measure_network(network: StyleNetwork, pairs: Sequence[tuple[Tensor, Tensor]]) -> StyleMeasures:
    """Returns the measures of a network, with the same weight for every pair.

    Args:
        network: In any mode; left unchanged.
        pairs: Batches of content (N, 3, H, W) and style (N, 3, H', W').
    """
    sums, spread, count = torch.zeros(5, dtype=torch.float64), 0.0, 0
    unbiased = network.norm.unbiased
    adain = AdaIN(unbiased=unbiased)
    for content, style in pairs:
        style_features = network.encoder(style)
        feature = network.encoder(content)[-1]
        target = network.norm(feature, style_features[-1])
        output = network.encoder(network.decoder(target))
        values = (
            F.mse_loss(output[-1], target),
            F.mse_loss(output[-1], adain(feature, style_features[-1])),
            F.mse_loss(_normalized(output[-1]), _normalized(feature)),
            style_loss(output, style_features, unbiased=unbiased),
            _gamma(network.norm, feature),
        )
        sums += len(content) * torch.stack([value.double().cpu() for value in values])
        spread += len(content) * float(target.var((2, 3), correction=0).mean())
        count += len(content)
    content_loss, fixed, structure, style_, gamma = (sums / count).tolist()
    relative = content_loss / (spread / count)
    return StyleMeasures(content_loss, fixed, relative, structure, style_, gamma)


def _normalized(features: Tensor) -> Tensor:
    mean, std = instance_statistics(features)
    return (features - mean) / std


def _gamma(norm: AdaIN, feature: Tensor) -> Tensor:
    if isinstance(norm, SaAdaIN):
        return norm.shared_weight.mean()
    if isinstance(norm, ILMAdaIN):
        weight: Tensor = norm.meta(feature)[0]
        return weight.mean()
    return feature.new_ones(())

"""Measures of generated images, from features and logits of a fixed network, in float64."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

# Number of rows in a block of distances.
_BLOCK = 1024


class Moments(NamedTuple):
    """Mean (D,) and unbiased covariance (D, D) of features, float64."""

    mean: Tensor
    covariance: Tensor


def moments(features: Tensor) -> Moments:
    """Returns mean and covariance of features (N, D), N at least 2."""
    features = features.double()
    return Moments(features.mean(0), features.T.cov().reshape(2 * features.shape[1:]))


def frechet_distance(first: Moments, second: Moments) -> float:
    r"""Returns the squared Fréchet distance between two Gaussians.

    .. math:: \|\mu_1 - \mu_2\|^2 + \mathrm{tr}(\Sigma_1 + \Sigma_2
        - 2 (\Sigma_1^{1/2} \Sigma_2 \Sigma_1^{1/2})^{1/2})

    This is FID only for moments of Inception features. Negative eigenvalues, which arise only from
    rounding, count as 0, so the covariance may come from fewer images than features.

    References:
        Heusel et al., GANs Trained by a Two Time-Scale Update Rule, NeurIPS 2017, arXiv:1706.08500.

    Examples:
        >>> one = Moments(torch.zeros(1).double(), torch.ones(1, 1).double())
        >>> frechet_distance(one, Moments(one.mean + 3, 4 * one.covariance))  # 3^2 + (2 - 1)^2
        10.0
    """
    values, vectors = torch.linalg.eigh(first.covariance)
    root = vectors * values.clamp_min(0).sqrt() @ vectors.T
    product = torch.linalg.eigvalsh(root @ second.covariance @ root)
    distance = (
        (first.mean - second.mean).square().sum()
        + first.covariance.trace()
        + second.covariance.trace()
        - 2 * product.clamp_min(0).sqrt().sum()
    )
    return float(distance)


def inception_score(logits: Tensor, splits: int = 10) -> float:
    r"""Returns the mean over equal splits of :math:`\exp E_x KL(p(y | x) \| p(y))`.

    This is the Inception Score only for the logits of Inception. The result lies between 1 and the
    number of classes. Images must be in random order, since p(y) is computed per split.

    Args:
        logits: (N, K), N at least ``splits``.
        splits: Number of splits, each of consecutive images; their sizes differ by at most one.

    Raises:
        ValueError: When there are fewer images than splits.

    References:
        Salimans et al., Improved Techniques for Training GANs, NeurIPS 2016, arXiv:1606.03498.

    Examples:
        >>> inception_score(1000 * torch.eye(4), splits=1)  # four classes, predicted with certainty
        4.0
    """
    if len(logits) < splits:
        raise ValueError(f"{splits} splits need as many images, got {len(logits)}")
    log_p = logits.double().log_softmax(1)
    scores = []
    for part in log_p.tensor_split(splits):
        log_marginal = part.logsumexp(0) - math.log(len(part))
        scores.append((part.exp() * (part - log_marginal)).sum(1).mean().exp())
    return float(torch.stack(scores).mean())


def precision_recall(real: Tensor, fake: Tensor, neighbours: int = 3) -> tuple[float, float]:
    """Returns the fraction of fakes near a real image, and of real images near a fake.

    An image is near another if their distance is at most the distance of that other image to its
    third nearest neighbour of the same kind, real or fake.

    Args:
        real: Features of real images, (N, D), N above ``neighbours``.
        fake: Features of generated images, (M, D), M above ``neighbours``.
        neighbours: Rank of the neighbour that sets the distance, 3 in the text above.

    References:
        Kynkäänniemi et al., Improved Precision and Recall Metric, NeurIPS 2019, arXiv:1904.06991.

    Examples:
        >>> real = torch.arange(8.0)[:, None]
        >>> precision_recall(real, real[:4])  # each fake is real; 7 is 4 away from the nearest fake
        (1.0, 0.875)
    """
    real, fake = real.double(), fake.double()
    return _covered(real, fake, neighbours), _covered(fake, real, neighbours)


def _covered(centers: Tensor, points: Tensor, neighbours: int) -> float:
    """Returns the fraction of the points within the radius of any center."""
    # The nearest neighbour is the image itself.
    radii = torch.cat(
        [
            _distances(block, centers).kthvalue(neighbours + 1).values
            for block in torch.split(centers, _BLOCK)
        ]
    )
    inside = [(_distances(block, centers) <= radii).any(1) for block in torch.split(points, _BLOCK)]
    return float(torch.cat(inside).double().mean())


def _distances(first: Tensor, second: Tensor) -> Tensor:
    # Not with matrix products: their rounding errors are large for images that are nearly equal.
    return torch.cdist(first, second, compute_mode="donot_use_mm_for_euclid_dist")

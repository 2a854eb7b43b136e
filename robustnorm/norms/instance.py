from __future__ import annotations

import torch
from torch import Tensor, nn


def instance_statistics(
    input: Tensor, eps: float = 1e-5, *, unbiased: bool = False
) -> tuple[Tensor, Tensor]:
    """Returns mean and standard deviation of each sample and channel over (H, W).

    Args:
        input: Feature maps (N, C, H, W); half precision is computed in float32.
        eps: Added to the variance.
        unbiased: Divide by H W - 1 instead of H W.

    Returns:
        Two tensors (N, C, 1, 1).

    Raises:
        ValueError: On another rank, or with ``unbiased`` and a single position.
    """
    if input.dim() != 4:
        raise ValueError(f"content and style must be (N, C, H, W), got {tuple(input.shape)}")
    if unbiased and input.shape[2] * input.shape[3] < 2:
        raise ValueError(
            f"an unbiased variance needs H W of at least 2, got {tuple(input.shape)}; take larger "
            "images or set unbiased to False"
        )
    if input.dtype in (torch.float16, torch.bfloat16):
        input = input.float()
    variance, mean = torch.var_mean(input, dim=(2, 3), correction=int(unbiased), keepdim=True)
    return mean, (variance + eps).sqrt()


class AdaIN(nn.Module):
    r"""Gives the content's feature maps the mean and standard deviation of the style's.

    .. math:: y = \sigma(s) \frac{x - \mu(x)}{\sigma(x)} + \mu(s), \quad
        \sigma(x)^2 = \mathrm{var}(x) + \epsilon

    with mean and variance per sample and channel over (H, W). The layer has no parameters and
    behaves the same in training and evaluation.

    Args:
        eps: Added to both variances.
        unbiased: Divide both variances by H W - 1, as the authors' release does, not by H W.

    Shape:
        content (N, C, H, W), style (N, C, H', W') to content's shape and dtype.

    Raises:
        ValueError: When content and style differ in N or C or do not have rank 4.

    References:
        Huang & Belongie, arXiv:1703.06868; Gong et al., arXiv:2102.11382, Eq. 9.

    Examples:
        >>> content, style = torch.rand(2, 3, 4, 4), torch.rand(2, 3, 8, 8)
        >>> stylized = AdaIN()(content, style)
        >>> torch.allclose(stylized.mean((2, 3)), style.mean((2, 3)), atol=1e-5)
        True
    """

    def __init__(self, eps: float = 1e-5, *, unbiased: bool = False) -> None:
        super().__init__()
        self.eps = eps
        self.unbiased = unbiased

    def forward(self, content: Tensor, style: Tensor) -> Tensor:
        content_mean, content_std = self._statistics(content)
        style_mean, style_std = self._statistics(style)
        if content.shape[:2] != style.shape[:2]:
            raise ValueError(
                "content and style must agree in N and C, got "
                f"{tuple(content.shape)} and {tuple(style.shape)}"
            )
        normalized = self._affine((content - content_mean) / content_std, content)
        return (style_std * normalized + style_mean).to(content.dtype)

    def _affine(self, normalized: Tensor, _content: Tensor) -> Tensor:
        return normalized

    def _statistics(self, input: Tensor) -> tuple[Tensor, Tensor]:
        return instance_statistics(input, self.eps, unbiased=self.unbiased)

    def extra_repr(self) -> str:
        return f"eps={self.eps}" + ", unbiased=True" * self.unbiased


class SaAdaIN(AdaIN):
    r"""AdaIN with a shared affine between the normalization and the style's statistics.

    .. math:: y = \sigma(s) (\gamma_{sa} \frac{x - \mu(x)}{\sigma(x)} + \beta_{sa}) + \mu(s)

    Args:
        num_features: C.
        eps: Added to both variances.
        unbiased: As in ``AdaIN``.

    Shape:
        As ``AdaIN``, with C = num_features.

    References:
        Gong et al., Sandwich Batch Normalization, WACV 2022, arXiv:2102.11382, Eq. 10.

    Examples:
        >>> content, style = torch.rand(2, 3, 4, 4), torch.rand(2, 3, 8, 8)
        >>> layer = SaAdaIN(3)  # before training it is AdaIN
        >>> torch.equal(layer(content, style), AdaIN()(content, style))
        True
    """

    def __init__(self, num_features: int, eps: float = 1e-5, *, unbiased: bool = False) -> None:
        super().__init__(eps, unbiased=unbiased)
        self.num_features = num_features
        self.shared_weight = nn.Parameter(torch.ones(num_features))
        self.shared_bias = nn.Parameter(torch.zeros(num_features))

    def _affine(self, normalized: Tensor, _content: Tensor) -> Tensor:
        if normalized.shape[1] != self.num_features:
            raise ValueError(
                f"SaAdaIN takes (N, {self.num_features}, H, W), got {tuple(normalized.shape)}"
            )
        return normalized * self.shared_weight[:, None, None] + self.shared_bias[:, None, None]

    def extra_repr(self) -> str:
        return f"{self.num_features}, {super().extra_repr()}"

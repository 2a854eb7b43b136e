from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from robustnorm.norms.instance import AdaIN


class ILM(nn.Module):
    r"""Predicts the affine that follows a normalization from the features before it.

    The channels are divided into G = C / group_size groups; each group has one mean m and one
    variance v over its channels and positions. With matrices E (H, G), U and V (G, H), without
    biases,

    .. math:: \gamma = \gamma_0 + \mathrm{sigmoid}(U\,\mathrm{relu}(E v)), \quad
        \beta = \beta_0 + \tanh(V\,\mathrm{relu}(E m))

    where all channels of a group share its value, and :math:`\gamma_0` and :math:`\beta_0`, one per
    channel, start at 1 and 0. With U and V at 0 the weight is 1.5 and the bias 0.

    Args:
        num_features: C, a multiple of ``group_size``.
        group_size: Channels per group; 16 in the paper.
        unbiased: Divide the variance by the number of values minus one.

    Shape:
        (N, C, H, W) to two tensors (N, C, 1, 1), weight and bias.

    Raises:
        ValueError: When C is not a multiple of ``group_size`` or the input has another C.

    References:
        Jia, Chen & Chen, Instance-Level Meta Normalization, CVPR 2019, arXiv:1904.03516; H is
        G / 16, but 2 up to G = 16, as in the code of its authors.

    Examples:
        >>> weight, bias = ILM(32)(torch.rand(4, 32, 8, 8))
        >>> weight.shape, bias.shape
        (torch.Size([4, 32, 1, 1]), torch.Size([4, 32, 1, 1]))
    """

    def __init__(self, num_features: int, group_size: int = 16, *, unbiased: bool = False) -> None:
        super().__init__()
        if num_features % group_size or num_features < group_size:
            raise ValueError(
                f"num_features must be a multiple of group_size {group_size}, got {num_features}"
            )
        groups = num_features // group_size
        hidden = groups // 16 if groups > 16 else 2
        self.num_features, self.group_size, self.unbiased = num_features, group_size, unbiased
        self.embed = nn.Linear(groups, hidden, bias=False)
        self.to_weight = nn.Linear(hidden, groups, bias=False)
        self.to_bias = nn.Linear(hidden, groups, bias=False)
        self.weight = nn.Parameter(torch.ones(num_features))
        self.bias = nn.Parameter(torch.zeros(num_features))

    def forward(self, input: Tensor) -> tuple[Tensor, Tensor]:
        if input.dim() != 4 or input.shape[1] != self.num_features:
            raise ValueError(f"ILM takes (N, {self.num_features}, H, W), got {tuple(input.shape)}")
        with torch.autocast(input.device.type, enabled=False):  # half precision is too coarse here
            # (N, G, values of a group)
            grouped = input.reshape(len(input), -1, self.group_size * input[0, 0].numel())
            grouped = grouped.to(self.weight.dtype)
            variance, mean = torch.var_mean(grouped, dim=2, correction=int(self.unbiased))
            weight = self.to_weight(F.relu(self.embed(variance))).sigmoid()
            bias = self.to_bias(F.relu(self.embed(mean))).tanh()
        return self._spread(weight, self.weight), self._spread(bias, self.bias)

    def _spread(self, grouped: Tensor, start: Tensor) -> Tensor:
        """Repeats each group's value for its channels: (N, G) to (N, C, 1, 1)."""
        return (grouped.repeat_interleave(self.group_size, dim=1) + start)[:, :, None, None]

    def extra_repr(self) -> str:
        return f"{self.num_features}, group_size={self.group_size}" + (
            ", unbiased=True" * self.unbiased
        )


class ILMAdaIN(AdaIN):
    r"""AdaIN with an affine that ILM predicts from the content instead of SaAdaIN's learned one.

    .. math:: y = \sigma(s) (\gamma(x) \frac{x - \mu(x)}{\sigma(x)} + \beta(x)) + \mu(s)

    Args:
        num_features: C, a multiple of 16.
        eps: Added to both variances.
        unbiased: As in ``AdaIN``, and for the variance of ILM's groups.

    Shape:
        As ``AdaIN``, with C = num_features.

    References:
        "ILM+IN" of Gong et al., arXiv:2102.11382, Section 5.2. Its code is not public; the position
        of the predicted affine follows our interpretation of the text.

    Examples:
        >>> content, style = torch.rand(2, 16, 4, 4), torch.rand(2, 16, 8, 8)
        >>> ILMAdaIN(16)(content, style).shape
        torch.Size([2, 16, 4, 4])
    """

    def __init__(self, num_features: int, eps: float = 1e-5, *, unbiased: bool = False) -> None:
        super().__init__(eps, unbiased=unbiased)
        self.meta = ILM(num_features, unbiased=unbiased)

    def _affine(self, normalized: Tensor, content: Tensor) -> Tensor:
        weight: Tensor
        bias: Tensor
        weight, bias = self.meta(content)
        return normalized * weight + bias

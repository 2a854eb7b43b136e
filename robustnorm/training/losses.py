"""AdvProp's step: clean and adversarial images, each through its own branch."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from robustnorm.attacks.contract import require_generator, unchanged
from robustnorm.attacks.descent import pgd_step
from robustnorm.attacks.threat_model import THREAT_MODELS, ThreatModel
from robustnorm.norms.routing import route
from robustnorm.settings.config import Config
from robustnorm.training import distributed
from robustnorm.training.finite import gradient_norm


class AdvProp(nn.Module):
    """AdvProp's step on a batch; one forward gives all losses, as DistributedDataParallel requires.

    Each adversarial branch ("adv" by default) is attacked with its own attack, using the statistics
    that ``config.attack_norm_mode`` names. Then follow one clean forward and one forward per
    adversarial branch, each normalized with its batch statistics. In a network without branches all
    of them go through the same layers.

    Args:
        model: In train mode.
        config: Gives the loss, the attacks, the precision and the gradient clipping.

    Shape:
        images (N, C, H, W), labels (N,), and the images (N, C, H, W) of each adversarial branch,
        to two scalars as ``losses`` returns them.

    References:
        Xie et al., arXiv:1911.09665; Gong et al., arXiv:2102.11382, Eq. 7.
    """

    def __init__(self, model: nn.Module, config: Config) -> None:
        super().__init__()
        self.model = model
        self.config = config

    def losses(
        self, images: Tensor, labels: Tensor, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """Returns the clean and the adversarial loss of one batch.

        Args:
            images: Float (N, C, H, W) in [0, 1].
            labels: int64 (N,).
            generator: Draws the attack's random start; None when ``config.adversarial`` is False.

        Returns:
            Two scalars; the second, the sum over the adversarial branches, is None when
            ``config.adversarial`` is False.
        """
        return self.forward(images, labels, self.adversarial_images(images, labels, generator))

    def forward(
        self, images: Tensor, labels: Tensor, adv_images: dict[str, Tensor]
    ) -> tuple[Tensor, Tensor | None]:
        clean_loss = self._loss("clean", images, labels)
        adv_losses = [self._loss(branch, inputs, labels) for branch, inputs in adv_images.items()]
        return clean_loss, sum(adv_losses[1:], adv_losses[0]) if adv_losses else None

    def _loss(self, branch: str, inputs: Tensor, labels: Tensor) -> Tensor:
        with route(self.model, branch), self._autocast(inputs.device):
            logits = self.model(inputs)
        smoothing = self.config.label_smoothing
        return F.cross_entropy(logits.float(), labels, label_smoothing=smoothing)

    def adversarial_images(
        self, images: Tensor, labels: Tensor, generator: torch.Generator | None
    ) -> dict[str, Tensor]:
        """Returns the adversarial images of each branch; see ``losses`` for the arguments.

        Empty when ``config.adversarial`` is False.
        """
        if not self.config.adversarial:
            return {}
        statistics: dict[str, Callable[[nn.Module], AbstractContextManager[None]]] = {
            "batch": unchanged,
            "batch-update": lambda _: nullcontext(),
            "eval": eval_mode,
        }
        made = {}
        for branch, attack in self.config.adversarial_branches.items():
            ball = THREAT_MODELS[attack.threat_model]
            with (
                statistics[self.config.attack_norm_mode](self.model),
                route(self.model, branch),
                self._autocast(images.device),
            ):
                # Computes what ``pgd`` does, without its checks, which wait for the device.
                epsilon = float(attack.epsilon)
                adv_images = _random_start(ball, images, epsilon, require_generator(generator))
                for _ in range(self.config.train_steps):
                    adv_images, _ = pgd_step(
                        self.model, adv_images, images, labels, **attack.options
                    )
            made[branch] = adv_images
        return made

    def backward(
        self, clean_loss: Tensor, adv_loss: Tensor | None, optimizer: torch.optim.Optimizer
    ) -> Tensor:
        """Computes a step's gradient, clips it if so configured, and returns its norm.

        Args:
            clean_loss: From ``losses``.
            adv_loss: From ``losses``.
            optimizer: For the model's parameters.

        Returns:
            The norm before clipping, a scalar. Does not wait for the device.
        """
        loss = clean_loss if adv_loss is None else clean_loss + adv_loss
        if self.config.loss == "mean" and adv_loss is not None:
            loss = loss / (1 + len(self.config.adversarial_branches))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        if self.config.gradient_clipping is not None:
            clipping = self.config.gradient_clipping
            return nn.utils.clip_grad_norm_(self.model.parameters(), clipping)
        return gradient_norm(self.model)

    def _autocast(self, device: torch.device) -> torch.autocast:
        """Returns the context of a training forward: bfloat16 if so configured, else float32."""
        low = self.config.precision == "bf16"
        return torch.autocast(device.type, torch.bfloat16, enabled=low)


@contextmanager
def eval_mode(model: nn.Module) -> Iterator[None]:
    """Puts ``model`` in evaluation mode for the block, then restores every module."""
    with unchanged(model):
        model.eval()
        yield


def _random_start(
    ball: ThreatModel, images: Tensor, epsilon: float, generator: torch.Generator
) -> Tensor:
    """Draws the starts of all processes' images, so that they do not depend on their number."""
    processes = distributed.world_size()
    if processes == 1:
        return ball.random_start(images, epsilon, generator)
    everywhere = torch.cat([images] * processes)
    return distributed.share_of_process(ball.random_start(everywhere, epsilon, generator))

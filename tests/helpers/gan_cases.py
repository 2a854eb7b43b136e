"""A small GAN on digits."""

import torch

from robustnorm.applications.gan.networks import build_networks
from robustnorm.applications.gan.state import State
from robustnorm.settings.gan import GanSettings

CPU = torch.device("cpu")


CONFIG = GanSettings(
    data="digits",
    image_size=8,
    width=8,
    discriminator_width=8,
    latent_dim=6,
    steps=6,
    discriminator_steps=2,
    batch_size=8,
    generator_batch=10,
    average=0.5,
    eval_every=3,
    eval_images=40,
    classifier_epochs=1,
    classifier_width=1,
    keep_steps=(4,),
    gradient_latents=2,
    gradient_batches=2,
    device="cpu",
)


def start(config=CONFIG, network="sngan", norm="sabn"):
    networks = build_networks(config, network, norm, 0, num_classes=10, channels=1)
    return State(*networks, config)

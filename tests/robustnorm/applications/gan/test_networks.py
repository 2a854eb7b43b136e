"""Generators, discriminators and losses against parameter counts and formulas."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from robustnorm import route
from robustnorm.applications.gan.discriminator import DownBlock
from robustnorm.applications.gan.generators import UpBlock
from robustnorm.applications.gan.losses import discriminator_loss, generator_loss
from robustnorm.applications.gan.networks import build_networks
from robustnorm.models.folding import fold
from robustnorm.norms.routing import routed_layers
from robustnorm.settings.gan import GanSettings

NETWORKS = ("sngan", "biggan", "autogan")
SMALL = GanSettings(image_size=16, width=8, discriminator_width=6, latent_dim=12)


def small(network, norm, seed=0):
    return build_networks(SMALL, network, norm, seed, num_classes=3, channels=3)


def parameters(network):
    return sum(parameter.numel() for parameter in network.parameters())


@pytest.mark.parametrize(
    ("network", "width", "generator_ccbn", "discriminator"),
    [
        # From the widths: a 3x3 convolution of 256 channels has 590,080, a 1x1 65,792, a
        # conditional norm 2 x 10 x 256; three blocks or cells, the first and the last layer.
        ("sngan", 128, 4_304_387, 1_055_104),
        ("autogan", 128, 4_435_971, 1_055_104),
        ("biggan", 256, 4_304_387, 4_207_361),
    ],
)
def test_full_size_networks_have_the_papers_parameters(
    network, width, generator_ccbn, discriminator
):
    config = GanSettings(discriminator_width=width)
    for norm, more in (("ccbn", 0), ("sabn", 6 * 2 * 256)):  # a shared affine in each of six
        built = build_networks(config, network, norm, 0, num_classes=10, channels=3)
        assert [parameters(part) for part in built] == [generator_ccbn + more, discriminator]


@pytest.mark.parametrize("network", NETWORKS)
def test_generator_with_an_identity_as_shared_affine_is_the_one_with_ccbn(network):
    ccbn, _ = small(network, "ccbn")
    sabn, _ = small(network, "sabn")
    sabn.load_state_dict(ccbn.state_dict(), strict=False)
    for layer in routed_layers(sabn):
        nn.init.ones_(layer.shared_weight)
        nn.init.zeros_(layer.shared_bias)
    latents, labels = torch.randn(6, 12), torch.tensor([0, 1, 2, 2, 1, 0])
    images = []
    for generator in (ccbn, sabn):
        with route(generator, labels):
            images.append(generator(latents))
    assert torch.equal(*images)
    assert images[0].shape == (6, 3, 16, 16)
    assert images[0].abs().max() <= 1


@pytest.mark.parametrize("network", NETWORKS)
def test_generator_folded_to_a_class_gives_the_same_images(network):
    generator, _ = small(network, "sabn")
    generator.eval()
    latents, labels = torch.randn(4, 12), torch.full((4,), 2)
    with route(generator, labels):
        images = generator(latents)
    # Rounding of float32 in other places.
    torch.testing.assert_close(fold(generator, "2")(latents), images, atol=1e-5, rtol=1e-5)


def test_generator_tells_classes_apart_by_its_norms_alone():
    generator, _ = small("sngan", "ccbn")
    latents = torch.randn(1, 12).expand(3, 12)
    with route(generator.eval(), torch.arange(3)):
        images = generator(latents)
    assert not torch.equal(images[0], images[1])
    for layer in routed_layers(generator):
        with torch.no_grad():
            layer.weight.copy_(layer.weight[:1].expand_as(layer.weight))
    with route(generator, torch.arange(3)):
        images = generator(latents)
    torch.testing.assert_close(images[0], images[1])


def test_up_block_equals_its_formula():
    block = UpBlock(4, nn.BatchNorm2d).double()
    features = torch.randn(3, 4, 5, 5).double()

    def up(values):
        return values.repeat_interleave(2, 2).repeat_interleave(2, 3)

    hidden = block.conv1(up(F.relu(block.norm1(features))))
    expected = block.conv2(F.relu(block.norm2(hidden))) + block.shortcut(up(features))
    torch.testing.assert_close(block(features), expected, atol=1e-12, rtol=1e-12)


@pytest.mark.parametrize("first", [False, True])
def test_down_block_equals_its_formula(first):
    block = DownBlock(3, 4, down=True, first=first).double()
    features = torch.randn(2, 3, 6, 6).double()
    hidden = block.conv2(F.relu(block.conv1(features if first else F.relu(features))))
    expected = F.avg_pool2d(hidden + block.shortcut(features), 2)
    torch.testing.assert_close(block(features), expected, atol=1e-12, rtol=1e-12)


def test_cells_of_autogan_hand_on_what_they_added():
    generator, _ = small("autogan", "ccbn")
    generator.double().eval()
    latents = torch.randn(2, 12).double()
    first, second, third = generator.cell1, generator.cell2, generator.cell3

    def bilinear(features):
        return F.interpolate(features, scale_factor=2, mode="bilinear")

    def nearest(features, scale=2):
        return F.interpolate(features, scale_factor=scale, mode="nearest")

    with route(generator, torch.tensor([0, 1])):
        start = generator.linear(latents)
        one = first.conv1(nearest(F.relu(first.norm1(start))))
        cell1 = first.conv2(F.relu(first.norm2(one))) + first.shortcut(nearest(start))
        two = second.conv1(bilinear(F.relu(second.norm1(cell1))))
        two = two + second.skips[0](bilinear(one))
        cell2 = second.conv2(F.relu(second.norm2(two))) + second.shortcut(bilinear(cell1))
        three = third.conv1(nearest(F.relu(third.norm1(cell2))))
        three = three + third.skips[0](nearest(one, 4)) + third.skips[1](nearest(two))
        expected = generator.output(third.conv2(F.relu(third.norm2(three))))
        torch.testing.assert_close(generator(latents), expected, atol=1e-12, rtol=1e-12)


@pytest.mark.parametrize("network", NETWORKS)
def test_every_weight_is_of_spectral_norm_one_after_its_iterations(network):
    generator, discriminator = small(network, "sabn")
    normalized = [discriminator, *([generator] if network == "biggan" else [])]
    for part in normalized:
        weights = [
            module
            for module in part.modules()
            if isinstance(module, nn.Conv2d | nn.Linear | nn.Embedding)
        ]
        assert weights
        for module in weights:
            for _ in range(50):
                weight = module.weight  # an iteration each time, in train mode
            largest = torch.linalg.matrix_norm(weight.flatten(1), ord=2)
            # Of two singular values that are nearly alike an iteration finds a mean.
            assert largest.item() == pytest.approx(1, abs=1e-2)
    if network != "biggan":
        assert not any("original" in name for name, _ in generator.named_parameters())


def test_projection_tells_classes_apart_by_their_embeddings():
    _, discriminator = small("sngan", "ccbn")
    discriminator.eval()
    images = torch.rand(4, 3, 16, 16) * 2 - 1
    one, other = (discriminator(images, torch.full((4,), label)) for label in (0, 2))
    embedding = discriminator.embedding.weight
    expected = discriminator.features(images) @ (embedding[0] - embedding[2])
    torch.testing.assert_close(one - other, expected, atol=1e-5, rtol=1e-4)


def test_discriminator_scores_each_image_by_itself():
    _, discriminator = small("sngan", "ccbn")
    discriminator.eval()
    images, labels = torch.rand(4, 3, 16, 16), torch.tensor([0, 1, 2, 0])
    apart = torch.cat([discriminator(images[i : i + 1], labels[i : i + 1]) for i in range(4)])
    torch.testing.assert_close(discriminator(images, labels), apart, atol=1e-5, rtol=1e-4)


def test_initial_scales_are_those_of_the_release():
    for network in NETWORKS:
        generator, _ = build_networks(
            GanSettings(width=64), network, "ccbn", 0, num_classes=10, channels=3
        )
        scales = torch.cat([layer.weight.flatten() for layer in routed_layers(generator)])
        shifts = torch.cat([layer.bias.flatten() for layer in routed_layers(generator)])
        # 3,840 draws: standard errors 0.0003 of the mean and 0.0002 of the deviation.
        assert scales.mean().item() == pytest.approx(1, abs=0.002)
        assert scales.std().item() == pytest.approx(0.02, abs=0.001)
        assert shifts.std().item() == pytest.approx(0.02 if network == "biggan" else 0, abs=0.001)


def test_hinge_losses_by_hand():
    real, fake = torch.tensor([2.0, 0.5]), torch.tensor([-2.0, 0.0, 1.0])
    assert discriminator_loss(real, fake).item() == pytest.approx(0.5 / 2 + (0 + 1 + 2) / 3)
    assert generator_loss(fake).item() == pytest.approx(1 / 3)
    zeros = torch.zeros(4)
    assert discriminator_loss(zeros, zeros).item() == 2
    assert generator_loss(zeros).item() == 0


def test_discriminator_loss_is_flat_beyond_the_margins():
    real = torch.tensor([2.0, 0.5], requires_grad=True)
    fake = torch.tensor([-2.0, 0.5], requires_grad=True)
    discriminator_loss(real, fake).backward()
    assert real.grad.tolist() == [0, -0.5]
    assert fake.grad.tolist() == [0, 0.5]


def test_same_seed_gives_the_same_networks_and_leaves_the_random_state():
    before = torch.get_rng_state()
    first, second = small("sngan", "sabn", 1), small("sngan", "sabn", 1)
    assert torch.equal(before, torch.get_rng_state())
    other = small("sngan", "sabn", 2)
    for one, same, another in zip(first, second, other, strict=True):
        weights = [copy.deepcopy(part.state_dict()) for part in (one, same, another)]
        assert all(torch.equal(value, weights[1][name]) for name, value in weights[0].items())
        assert any(not torch.equal(value, weights[2][name]) for name, value in weights[0].items())


def test_unknown_norm_and_size_are_refused():
    with pytest.raises(ValueError, match="'ccbn' or 'sabn', got 'bn'"):
        small("sngan", "bn")
    with pytest.raises(ValueError, match="image_size must be a multiple of 8, got 20"):
        GanSettings(image_size=20)

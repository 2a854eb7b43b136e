"""Losses and measures against their formulas, and where the content loss's gradient goes."""

import copy

import pytest
import torch
from torch import nn

from robustnorm.applications.style.losses import losses, measure_network, style_loss
from robustnorm.applications.style.network import StyleNetwork
from robustnorm.norms import AdaIN


def make_batch(n=3, side=8, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return (
        torch.rand(n, 3, side, side, generator=generator),
        torch.rand(n, 3, side + 2, side, generator=generator),
    )


def moved(network):
    """The network with an affine that is not the identity."""
    with torch.no_grad():
        network.norm.shared_weight.copy_(torch.linspace(0.3, 1.4, 16))
        network.norm.shared_bias.copy_(torch.linspace(-0.5, 0.5, 16))
    return network


def test_losses_equal_their_formulas(make_network):
    network, (content, style) = moved(make_network()), make_batch()
    encode = network.encoder
    target = network.norm(encode(content)[-1], encode(style)[-1])
    output = encode(network.decoder(target))
    n, channels = target.shape[:2]
    squares = [
        (output[-1][i, c] - target[i, c]).square().mean() for i in range(n) for c in range(channels)
    ]
    expected_style = 0.0
    for mine, theirs in zip(output, encode(style), strict=True):
        for moment in (
            lambda x: x.mean(),
            lambda x: ((x - x.mean()).square().mean() + 1e-5).sqrt(),
        ):
            differences = [
                (moment(mine[i, c]) - moment(theirs[i, c])).square()
                for i in range(n)
                for c in range(mine.shape[1])
            ]
            expected_style += torch.stack(differences).mean()

    found = losses(network, content, style, content_target="moving")

    torch.testing.assert_close(found.content, torch.stack(squares).mean())
    torch.testing.assert_close(found.style, expected_style)


def test_style_loss_of_a_picture_with_itself_is_zero(encoder):
    features = encoder(make_batch()[0])
    assert style_loss(features, features) == 0


def test_style_loss_does_not_see_positions(encoder):
    content, style = make_batch()
    features, wanted = encoder(content), encoder(style)
    shuffled = []
    for feature in features:
        flat = feature.flatten(2)
        order = torch.randperm(flat.shape[2], generator=torch.Generator().manual_seed(1))
        shuffled.append(flat[:, :, order].view_as(feature))
    torch.testing.assert_close(style_loss(shuffled, wanted), style_loss(features, wanted))


class Constant(nn.Module):
    """A decoder whose picture does not depend on its input: only the target is left to move."""

    def __init__(self, picture):
        super().__init__()
        self.register_buffer("picture", picture)

    def forward(self, _target):
        return self.picture


@pytest.mark.parametrize("norm", ["saadain", "ilm"])
def test_content_loss_moves_the_target_only_when_it_is_not_detached(make_network, norm):
    network, (content, style) = make_network(norm), make_batch()
    network.decoder = Constant(torch.rand(3, 3, 8, 8))
    parameters = list(network.norm.parameters())
    moving = losses(network, content, style, content_target="moving")
    gradients = torch.autograd.grad(moving.content, parameters)
    assert all(gradient.abs().max() > 0 for gradient in gradients)
    detached = losses(network, content, style, content_target="detached")
    assert torch.equal(detached.content, moving.content)
    assert not detached.content.requires_grad


def test_detached_content_loss_reaches_gamma_through_the_decoder(make_network):
    network, (content, style) = make_network(), make_batch()
    found = losses(network, content, style, content_target="detached")
    (gradient,) = torch.autograd.grad(found.content, [network.norm.shared_weight])
    assert gradient.abs().max() > 0


def test_losses_refuse_another_target(make_network):
    with pytest.raises(ValueError, match="must be moving or detached, got fixed"):
        losses(make_network(), *make_batch(), content_target="fixed")


def test_a_step_leaves_the_encoder_alone(make_network):
    network, (content, style) = make_network(), make_batch()
    before = copy.deepcopy(network.encoder.state_dict())
    network.train()
    optimizer = torch.optim.Adam([p for p in network.parameters() if p.requires_grad], lr=0.1)
    found = losses(network, content, style, content_target="moving")
    (found.content + found.style).backward()
    optimizer.step()
    assert all(p.grad is None for p in network.encoder.parameters())
    assert not any(module.training for module in network.encoder.modules())
    after = network.encoder.state_dict()
    assert all(torch.equal(after[name], before[name]) for name in before)
    trained = {name for name, p in network.named_parameters() if p.grad is not None}
    assert {"norm.shared_weight", "norm.shared_bias", "decoder.1.weight"} <= trained


@torch.no_grad()
def test_measures_equal_their_formulas_whatever_the_batches(make_network):
    network, (content, style) = moved(make_network()), make_batch(n=5)
    encode = network.encoder
    feature, style_feature = encode(content)[-1], encode(style)[-1]
    target = network.norm(feature, style_feature)
    output = encode(network.decoder(target))[-1]

    def normalized(x):
        mean, variance = x.mean((2, 3), keepdim=True), x.var((2, 3), correction=0, keepdim=True)
        return (x - mean) / (variance + 1e-5).sqrt()

    spread = (target - target.mean((2, 3), keepdim=True)).square().mean()
    expected = {
        "content": (output - target).square().mean(),
        "fixed": (output - AdaIN()(feature, style_feature)).square().mean(),
        "relative": (output - target).square().mean() / spread,
        "structure": (normalized(output) - normalized(feature)).square().mean(),
        "style": losses(network, content, style, content_target="moving").style,
        "gamma": torch.linspace(0.3, 1.4, 16).mean(),
    }
    batches = list(zip(content.split(2), style.split(2), strict=True))  # of 2, 2 and 1
    for name, value in measure_network(network, batches)._asdict().items():
        assert value == pytest.approx(float(expected[name]), rel=1e-5), name


def test_adain_has_one_content_loss_and_a_gamma_of_one(make_network):
    found = measure_network(make_network("adain"), [make_batch()])
    assert found.content == found.fixed
    assert found.gamma == 1


def test_gamma_of_ilm_is_its_mean_weight(make_network):
    network, (content, style) = make_network("ilm"), make_batch()
    nn.init.zeros_(network.norm.meta.to_weight.weight)
    assert measure_network(network, [(content, style)]).gamma == 1.5


def test_decoder_mirrors_the_encoder():
    from robustnorm.applications.style.network import decoder

    layers = decoder((64, 128, 256, 512), (2, 2, 4, 1))
    # Huang & Belongie's decoder: 29 layers, up-sampled after the 1st, 5th and 7th convolution
    kinds = [type(layer) for layer in layers]
    assert len(layers) == 29
    assert [i for i, kind in enumerate(kinds) if kind is nn.Upsample] == [3, 16, 23]
    convolutions = [layer for layer in layers if isinstance(layer, nn.Conv2d)]
    assert [(c.in_channels, c.out_channels) for c in convolutions] == [
        (512, 256), (256, 256), (256, 256), (256, 256), (256, 128), (128, 128), (128, 64), (64, 64),
        (64, 3),
    ]  # fmt: skip
    assert kinds[-1] is nn.Conv2d


def test_decoders_of_a_seed_are_equal_whatever_the_norm(encoder):
    first, second = (StyleNetwork(encoder, norm, 7).decoder for norm in ("adain", "ilm"))
    other = StyleNetwork(encoder, "adain", 8).decoder
    weights = [list(decoder.parameters()) for decoder in (first, second, other)]
    assert all(torch.equal(a, b) for a, b in zip(weights[0], weights[1], strict=True))
    assert not torch.equal(weights[0][0], weights[2][0])


def test_network_gives_a_picture_of_the_contents_size(make_network):
    content, style = torch.rand(1, 3, 9, 11), torch.rand(1, 3, 8, 8)
    picture = make_network()(content, style)
    assert picture.shape == content.shape
    assert picture.min() >= 0
    assert picture.max() <= 1


def test_network_refuses_an_unknown_norm(encoder):
    with pytest.raises(ValueError, match="norm must be one of adain, ilm, saadain, got bn"):
        StyleNetwork(encoder, "bn")

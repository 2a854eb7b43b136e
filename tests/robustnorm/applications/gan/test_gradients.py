"""Figure 2's gradients against automatic differentiation written out."""

import copy

import pytest
import torch

from robustnorm import route
from robustnorm.applications.gan.gradients import class_gradients
from robustnorm.applications.gan.networks import build_networks
from robustnorm.evaluation.diversity import Gradient, compare_gradients, stage_weights
from robustnorm.settings.gan import GanSettings

CONFIG = GanSettings(image_size=8, width=4, discriminator_width=4, latent_dim=5)


@pytest.fixture(params=["sngan", "biggan", "autogan"])
def networks(request):
    return build_networks(CONFIG, request.param, "sabn", 0, num_classes=3, channels=1)


@pytest.mark.parametrize("reading", ["single samples", "class batches"])
def test_class_gradients_equal_the_formula(networks, reading):
    generator, discriminator = (network.double() for network in networks)
    shape = (2,) if reading == "single samples" else (2, 4)
    latents = torch.randn(*shape, 5, generator=torch.Generator().manual_seed(0)).double()
    stages = class_gradients(generator, discriminator, latents, num_classes=3, reading=reading)
    copied = copy.deepcopy(generator).train(reading == "class batches")
    block = copied.get_submodule("block2" if hasattr(copied, "block2") else "cell2")
    weights = [
        parameter
        for name, parameter in block.named_parameters()
        if parameter.dim() == 4  # of its convolutions
    ]
    norms, cosines = [], []
    for values in latents:
        rows = []
        for label in range(3):
            batch = values.view(-1, 5)
            labels = torch.full((len(batch),), label)
            with route(copied, labels):
                loss = -copy.deepcopy(discriminator).eval()(copied(batch), labels).mean()
            parts = torch.autograd.grad(loss, weights)
            rows.append(torch.cat([part.flatten() for part in parts]))
        rows = torch.stack(rows)
        norms.append(rows.norm(dim=1))
        unit = rows / norms[-1][:, None]
        cosines.append(((unit @ unit.T).sum() - 3) / 6)
    stage = stages[2]
    assert stage.stage in ("block2", "cell2")
    deviations = torch.stack([each.std(correction=0) for each in norms])
    assert stage.std_of_norms == pytest.approx(deviations.mean().item(), rel=1e-6)
    assert stage.mean_norm == pytest.approx(torch.stack(norms).mean().item(), rel=1e-6)
    assert stage.mean_cosine == pytest.approx(torch.stack(cosines).mean().item(), rel=1e-6)


def test_class_gradients_leave_the_networks_as_they_were(networks):
    generator, discriminator = networks
    before = [copy.deepcopy(network.state_dict()) for network in networks]
    for reading, shape in (("single samples", (2, 5)), ("class batches", (2, 4, 5))):
        class_gradients(
            generator, discriminator, torch.randn(shape), num_classes=3, reading=reading
        )
    for network, values in zip(networks, before, strict=True):
        assert network.training
        assert all(torch.equal(value, values[name]) for name, value in network.state_dict().items())


def test_stages_of_a_spectrally_normalized_generator_are_its_trained_weights():
    generator, _ = build_networks(CONFIG, "biggan", "ccbn", 0, num_classes=3, channels=1)
    stages = stage_weights(generator)
    assert list(stages) == ["linear", "block1", "block2", "block3", "output"]
    trained = {id(parameter) for parameter in generator.parameters()}
    assert all(id(weight) in trained for members in stages.values() for weight in members)
    assert len(stages["block1"]) == 3


def test_equal_gradients_have_cosine_one_and_orthogonal_ones_zero():
    weight = torch.nn.Parameter(torch.zeros(3))

    def compare(*rows):
        gradients = [Gradient(str(i), [row]) for i, row in enumerate(rows)]
        (stage,) = compare_gradients({"only": [weight]}, [gradients])
        return stage

    one = torch.tensor([1.0, 2, 2])
    assert compare(one, one, one).mean_cosine == pytest.approx(1)
    assert compare(one, one, one).std_of_norms == pytest.approx(0, abs=1e-7)
    assert compare(*torch.eye(3)).mean_cosine == pytest.approx(0)
    assert compare(3 * torch.eye(3)[0], torch.eye(3)[1]).std_of_norms == pytest.approx(1)
    with pytest.raises(ValueError, match=r"for group 1 .* has norm 0"):
        compare(one, 0 * one)

"""The encoder: VGG's layers, batch norms folded, mean activations of 1, weights of two layouts."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from robustnorm.applications.style.classifier import Classifier, accuracy, fold_encoder, train_epoch
from robustnorm.applications.style.encoder import (
    VGG19_DEPTHS,
    VGG19_WIDTHS,
    Encoder,
    from_vgg19,
    vgg_layers,
)
from robustnorm.data.dataset import Augmentation, Split

# float32 sums of at most 9 * 512 terms, over a few layers
CLOSE = {"rtol": 1e-4, "atol": 1e-5}


def mean_activations(encoder, images):
    """The mean of each channel after each ReLU."""
    found = []
    for layer in encoder.layers:
        images = layer(images)
        if isinstance(layer, nn.ReLU):
            found.append(images.mean((0, 2, 3)))
    return found


def test_vgg19_has_the_layers_of_the_authors_weights():
    # Places of the convolutions of vgg_normalised up to relu4_1, and of relu1_1 to relu4_1.
    layers = vgg_layers(VGG19_WIDTHS, VGG19_DEPTHS)
    places = [i for i, layer in enumerate(layers) if isinstance(layer, nn.Conv2d)]
    assert places == [0, 2, 5, 9, 12, 16, 19, 22, 25, 29]
    assert len(layers) == 31
    assert all(isinstance(layers[place], nn.ReLU) for place in (3, 10, 17, 30))
    channels = [layers[place].out_channels for place in places]
    assert channels == [3, 64, 64, 128, 128, 256, 256, 256, 256, 512]


def test_encoder_gives_the_first_relu_of_each_stage(encoder):
    images = torch.rand(2, 3, 9, 7)
    first = F.relu(encoder.layers[2](F.pad(encoder.layers[0](images), (1,) * 4, "reflect")))
    features = encoder(images)
    torch.testing.assert_close(features[0], first)
    assert [tuple(f.shape) for f in features] == [(2, 8, 9, 7), (2, 16, 5, 4)]


def test_encoder_stays_frozen_and_in_evaluation_mode(encoder):
    encoder.train()
    assert not any(module.training for module in encoder.modules())
    assert not any(parameter.requires_grad for parameter in encoder.parameters())


def test_normalized_encoder_has_mean_activations_of_one():
    torch.manual_seed(3)
    encoder = Encoder((8, 16, 16), (2, 2, 1))
    before = copy.deepcopy(encoder)
    images = torch.rand(6, 3, 16, 16)
    encoder.normalize(images.split(4))  # batches of 4 and 2 count by their positions
    active = [mean > 0 for mean in mean_activations(before, images)]
    assert all(mask.any() for mask in active)
    for mean, mask in zip(mean_activations(encoder, images), active, strict=True):
        torch.testing.assert_close(mean[mask], torch.ones_like(mean[mask]), **CLOSE)
        assert (mean[~mask] == 0).all()
    # Each feature is the former one times one factor a channel, on other images, too.
    others = torch.rand(2, 3, 16, 16)
    for mean, mask, new, old in zip(
        mean_activations(before, images)[::2],
        active[::2],
        encoder(others),
        before(others),
        strict=True,
    ):
        torch.testing.assert_close(new[:, mask] * mean[mask, None, None], old[:, mask], **CLOSE)


def make_classifier():
    torch.manual_seed(1)
    model = Classifier((8, 12), 3, (0.5, 0.4, 0.3), (0.2, 0.3, 0.25))
    model.train()
    model(torch.rand(16, 3, 8, 8))  # moves the running statistics away from 0 and 1
    return model.eval()


def test_folded_encoder_gives_the_features_of_the_classifier():
    model = make_classifier()
    encoder = fold_encoder(model, cut=2)
    images = torch.rand(2, 3, 8, 8)
    expected, x = [], images
    for layer in model.features:
        x = layer(x)
        if isinstance(layer, nn.ReLU):
            expected.append(x)
    first, last = encoder(images)
    torch.testing.assert_close(first, expected[0], **CLOSE)
    torch.testing.assert_close(last, expected[2], **CLOSE)


def test_classifier_standardizes_colors_first():
    model = make_classifier()
    image = torch.tensor([0.7, 0.1, 0.55]).view(1, 3, 1, 1)
    expected = torch.tensor([(0.7 - 0.5) / 0.2, (0.1 - 0.4) / 0.3, (0.55 - 0.3) / 0.25])
    torch.testing.assert_close(model.features[0](image).flatten(), expected)


def test_classifier_learns_and_its_first_layer_stays():
    torch.manual_seed(0)
    model = Classifier((8,), 2, (0.5,) * 3, (0.25,) * 3)
    images = torch.randint(0, 100, (64, 3, 8, 8), dtype=torch.uint8)
    labels = torch.arange(64) % 2
    images[labels == 1] += 150
    split = Split(images, labels)
    before = copy.deepcopy(model.features[0].state_dict())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    for epoch in range(8):
        assert train_epoch(model, optimizer, split, Augmentation(), epoch=epoch, epochs=8)
    assert accuracy(model, split) == 1.0
    assert all(torch.equal(model.features[0].state_dict()[name], before[name]) for name in before)


def test_training_of_the_classifier_stops_before_a_step():
    model = make_classifier()
    before = copy.deepcopy(model.state_dict())
    split = Split(torch.zeros(4, 3, 8, 8, dtype=torch.uint8), torch.tensor([0, 1, 2, 0]))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    assert not train_epoch(
        model, optimizer, split, Augmentation(), epoch=0, epochs=1, stop=lambda: True
    )
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def random_vgg19():
    torch.manual_seed(0)
    return Encoder(VGG19_WIDTHS, VGG19_DEPTHS)


def test_vgg19_is_read_from_the_layout_of_its_authors():
    encoder = random_vgg19()
    deeper = {"31.weight": torch.zeros(1)}
    read = from_vgg19(encoder.layers.state_dict() | deeper)
    image = torch.rand(1, 3, 16, 16)
    assert all(torch.equal(a, b) for a, b in zip(read(image), encoder(image), strict=True))


def test_vgg19_is_read_from_the_layout_of_torchvision():
    # torchvision's "E" configuration up to the ninth convolution, as it is written there
    layers, before = [], 3
    for channels in (64, 64, "M", 128, 128, "M", 256, 256, 256, 256, "M", 512):
        if channels == "M":
            layers.append(nn.MaxPool2d(2))
        else:
            layers += [nn.Conv2d(before, channels, 3, padding=1), nn.ReLU()]
            before = channels
    torch.manual_seed(0)
    theirs = nn.Sequential(*layers)
    for layer in theirs:
        if isinstance(layer, nn.Conv2d):
            layer.padding_mode = "reflect"  # ours; torchvision pads with zeros
            layer._reversed_padding_repeated_twice = [1, 1, 1, 1]
    read = from_vgg19({f"features.{name}": value for name, value in theirs.state_dict().items()})
    image = torch.rand(1, 3, 16, 16)
    mean = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)
    std = torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)
    expected = theirs((image - mean) / std)
    torch.testing.assert_close(read(image)[-1], expected, **CLOSE)


@pytest.mark.parametrize(
    ("name", "value"), [("29.weight", None), ("2.bias", torch.zeros(3))], ids=["missing", "shape"]
)
def test_vgg19_refuses_other_weights(name, value):
    state = dict(random_vgg19().layers.state_dict())
    state.pop(name)
    if value is not None:
        state[name] = value
    with pytest.raises(ValueError, match=f"1 tensors are missing or have another.*{name}"):
        from_vgg19(state)


def test_cut_encoder_gives_the_first_features():
    encoder = Encoder((4, 8, 16), (2, 2, 2))
    images = torch.rand(1, 3, 8, 8)
    cut = encoder.cut(2)
    assert cut.depths == (2, 1)
    assert all(torch.equal(a, b) for a, b in zip(cut(images), encoder(images)[:2], strict=True))


def test_encoder_refuses_tiny_images(encoder):
    with pytest.raises(ValueError, match="at least 4 x 4 pixels, got 8 x 3"):
        encoder(torch.rand(1, 3, 3, 8))

"""Features, generated images, and what is measured of them."""

from dataclasses import replace

import pytest
import torch
from gan_cases import CONFIG, CPU, start

from robustnorm import route
from robustnorm.applications.gan.features import ClassifierFeatures, trained_classifier
from robustnorm.applications.gan.measures import (
    balanced_labels,
    check_number,
    generate,
    shrunk,
)
from robustnorm.data.dataset import Dataset, Split
from robustnorm.data.errors import DataError
from robustnorm.settings.gan import GanSettings
from robustnorm.system.errors import UsageError


def test_labels_are_balanced_and_in_random_order():
    labels = balanced_labels(25, 10, 0)
    assert torch.bincount(labels).tolist() == [3] * 5 + [2] * 5
    assert not torch.equal(labels, labels.sort().values)


def test_generate_gives_the_same_images_whatever_the_batch(monkeypatch):
    generator = start().average
    latents, labels = torch.randn(7, 6), torch.arange(7)
    images = generate(generator, latents, labels)
    assert images.dtype == torch.uint8
    monkeypatch.setattr("robustnorm.applications.gan.measures._BATCH", 3)
    # A value on the edge between two numbers may round to either.
    difference = images.int() - generate(generator, latents, labels).int()
    assert difference.abs().max() <= 1
    with route(generator, labels), torch.no_grad():
        expected = ((generator(latents) + 1) / 2 * 255).round()
    assert (images - expected).abs().max() <= 1


def test_shrunk_images_are_means_of_squares(digits):
    images = 2 * torch.arange(64, dtype=torch.uint8).view(1, 1, 8, 8)
    split = Split(images, torch.zeros(1, dtype=torch.int64))
    small = shrunk(Dataset("d", ("a",), split, split, digits.augmentation, "0"), 4)
    # 0, 2, 16 and 18 have the mean 9; the next two columns are 4 more.
    assert small.train.images[0, 0, 0].tolist() == [9, 13, 17, 21]
    with pytest.raises(DataError, match="images of 8x8 cannot be averaged down to 3x3"):
        shrunk(digits, 3)
    wide = Split(images.view(1, 1, 4, 16), split.labels)
    with pytest.raises(DataError, match="square images, but those of d have 16x4 pixels"):
        shrunk(Dataset("d", ("a",), wide, wide, digits.augmentation, "0"), 4)


def test_data_of_too_few_images_to_be_measured_are_refused(digits):
    check_number(digits)
    few = replace(digits, test=digits.test.take(torch.arange(9)))
    with pytest.raises(DataError, match="at least 10 training and 10 test images"):
        check_number(few)


def test_features_lead_to_the_classifiers_own_logits(digits, tmp_path):
    features = trained_classifier(digits, CONFIG, CPU, tmp_path)
    again = trained_classifier(digits, CONFIG, CPU, tmp_path)  # from its checkpoint
    seen, same = features(digits.test.images), again(digits.test.images)
    assert torch.equal(seen.logits, same.logits)
    assert features.description == again.description
    assert seen.features.shape == (50, 8)
    correct = (seen.logits.argmax(1) == digits.test.labels).double().mean()
    assert correct.item() == pytest.approx(features.description["accuracy"])
    assert isinstance(features, ClassifierFeatures)
    with pytest.raises(UsageError, match="classifier with other settings or data"):
        trained_classifier(
            digits, GanSettings(**{**vars(CONFIG), "classifier_width": 2}), CPU, tmp_path
        )


def test_measures_of_the_datas_own_images_are_better_than_a_generators(measures):
    real = measures.of_test_images()
    fake = measures.of_generator(start().average)
    assert real["n"] == fake["n"] == 40
    assert real["distance"] < fake["distance"]
    assert 1 <= fake["score"] <= 10
    assert 0 <= fake["label_accuracy"] <= 1

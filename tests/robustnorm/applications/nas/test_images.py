from dataclasses import replace

import pytest
import torch

from robustnorm.applications.nas.images import batches_from, divide, path_generator, reduced
from robustnorm.data.dataset import Augmentation
from robustnorm.data.errors import DataError


def ids(batches, count):
    return [next(batches).ids.tolist() for _ in range(count)]


def test_reduced_images_are_means_kept_as_bytes(dataset):
    small = reduced(dataset, 4)
    expected = dataset.train.images.double().view(40, 3, 4, 2, 4, 2).mean((3, 5)).round()
    assert small.train.images.dtype == torch.uint8
    assert small.train.images.shape == (40, 3, 4, 4)
    torch.testing.assert_close(small.train.images.double(), expected, rtol=0, atol=0)
    assert small.name == "noise at 4x4"
    assert small.sha256 != dataset.sha256
    assert torch.equal(small.test.labels, dataset.test.labels)


@pytest.mark.parametrize("size", [None, 8])
def test_images_of_the_size_stay_as_they_are(dataset, size):
    assert reduced(dataset, size) is dataset


@pytest.mark.parametrize("size", [5, 16])
def test_size_that_does_not_divide_is_refused(dataset, size):
    with pytest.raises(DataError, match="image_size must divide the height of noise's images, 8"):
        reduced(dataset, size)


def rows(split):
    return {tuple(image.flatten().tolist()) for image in split.images}


def test_alpha_has_half_of_the_training_images_by_default(dataset, settings):
    images = divide(dataset, settings)
    assert (len(images.weights), len(images.alpha)) == (20, 20)
    assert not rows(images.weights) & rows(images.alpha)
    assert rows(images.weights) | rows(images.alpha) == rows(dataset.train)
    other = divide(dataset, replace(settings, seed=7))
    assert torch.equal(other.alpha.images, images.alpha.images)


def test_release_s_split_gives_alpha_half_of_the_test_images(dataset, settings):
    images = divide(dataset, replace(settings, alpha_split="test"))
    assert (len(images.weights), len(images.alpha)) == (40, 10)
    assert rows(images.alpha) < rows(dataset.test)


def test_augmentation_is_the_data_set_s_unless_set(dataset, settings):
    assert divide(dataset, settings).augmentation == Augmentation(padding=1, flip=True)
    changed = replace(settings, padding=0, flip=False)
    assert divide(dataset, changed).augmentation == Augmentation(padding=0, flip=False)


def test_all_norms_of_a_seed_see_the_same_batches(dataset, settings):
    split = divide(dataset, settings).weights
    batches = [
        batches_from(split, replace(settings, norm=norm, batch_size=4), Augmentation(1, True), 0, 0)
        for norm in ("bn", "sabn")
    ]
    for _ in range(12):  # more than two epochs
        one, other = map(next, batches)
        assert torch.equal(one.images, other.images)


def test_batches_go_on_from_any_step(dataset, settings):
    split, few = divide(dataset, settings).weights, replace(settings, batch_size=4)
    whole = ids(batches_from(split, few, Augmentation(), 0, 0), 13)
    for step in (0, 3, 5, 12):
        assert ids(batches_from(split, few, Augmentation(), 0, step), 13 - step) == whole[step:]
    assert whole[:5] != whole[5:10]  # each epoch has an order of its own


def test_orders_differ_between_weights_and_alpha_and_between_seeds(dataset, settings):
    split = divide(dataset, settings).weights
    orders = [
        ids(batches_from(split, replace(settings, seed=seed), Augmentation(), part, 0), 1)
        for seed in range(3)
        for part in range(2)
    ]
    assert len({str(order) for order in orders}) == 6


def test_paths_are_drawn_from_seed_step_and_part_alone():
    def draw(*key):
        return torch.rand(4, generator=path_generator(*key)).tolist()

    assert draw(3, 1, 0) == draw(3, 1, 0)
    others = [draw(3, 1, 1), draw(4, 1, 0), draw(3, 2, 0), draw(31, 1, 0), draw(3, 11, 0)]
    assert draw(3, 1, 0) not in others
    assert len({str(other) for other in others}) == 5

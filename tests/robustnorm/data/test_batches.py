import pytest
import torch

from robustnorm.data.batches import epoch_batches, steps_per_epoch, to_float
from robustnorm.data.dataset import Augmentation, Split
from robustnorm.data.errors import DataError

CROP_AND_FLIP = Augmentation(padding=2, flip=True)


def make_split(n=30):
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(1, 256, (n, 3, 6, 5), generator=generator, dtype=torch.uint8)
    return Split(images, torch.arange(n) % 4)


def epoch(split, batch_size=10, seed=0, number=0, augmentation=CROP_AND_FLIP, **options):
    """One epoch's images by id."""
    batches = epoch_batches(
        split, batch_size=batch_size, seed=seed, epoch=number, augmentation=augmentation, **options
    )
    return {
        int(i): image for batch in batches for i, image in zip(batch.ids, batch.images, strict=True)
    }


def windows(image, padding):
    """Every crop of a padded image, straight and mirrored, one after the other."""
    channels, height, width = image.shape
    padded = torch.zeros(channels, height + 2 * padding, width + 2 * padding, dtype=image.dtype)
    padded[:, padding : padding + height, padding : padding + width] = image
    for top in range(2 * padding + 1):
        for left in range(2 * padding + 1):
            window = padded[:, top : top + height, left : left + width]
            yield from (window, window.flip(2))


def test_each_image_is_one_of_its_crops():
    split = make_split()
    for i, image in epoch(split).items():
        candidates = [window / 255 for window in windows(split.images[i], 2)]
        assert any(torch.equal(image, candidate) for candidate in candidates)


def test_all_crops_and_both_orientations_occur():
    split = make_split(1)
    candidates = [window / 255 for window in windows(split.images[0], 2)]
    seen = set()
    for number in range(600):  # 50 equally likely outcomes: one is missed once in 3,600 trials
        (image,) = epoch(split, batch_size=1, number=number).values()
        seen.add(next(k for k, c in enumerate(candidates) if torch.equal(image, c)))
    assert seen == set(range(50))


def test_no_augmentation_leaves_images_as_they_are():
    split = make_split()
    for i, image in epoch(split, augmentation=Augmentation()).items():
        assert torch.equal(image, split.images[i] / 255)


def test_labels_belong_to_their_images():
    split = make_split()
    batches = epoch_batches(split, batch_size=7, seed=0, epoch=0, augmentation=Augmentation())
    for batch in batches:
        assert torch.equal(batch.labels, split.labels[batch.ids])
        assert torch.equal(batch.images, to_float(split.images[batch.ids]))


def test_epoch_has_each_image_once_and_drops_the_incomplete_batch():
    ids = list(epoch(make_split(), batch_size=10))
    assert sorted(ids) == list(range(30))
    assert ids != sorted(ids)
    assert len(epoch(make_split(), batch_size=8)) == 24


def test_continued_epoch_has_the_batches_that_were_left():
    whole = epoch(make_split())
    rest = epoch(make_split(), first_step=2)
    assert list(rest) == list(whole)[20:]
    assert all(torch.equal(image, whole[i]) for i, image in rest.items())
    assert epoch(make_split(), first_step=3) == {}


def test_epoch_is_reproducible():
    first, second = epoch(make_split()), epoch(make_split())
    assert list(first) == list(second)
    assert all(torch.equal(first[i], second[i]) for i in first)


@pytest.mark.parametrize("change", [{"seed": 1}, {"number": 1}])
def test_epoch_differs_with_seed_and_number(change):
    first, second = epoch(make_split()), epoch(make_split(), **change)
    assert list(first) != list(second)
    assert any(not torch.equal(first[i], second[i]) for i in first)


def test_augmentation_of_an_image_does_not_depend_on_its_batch():
    small, large = epoch(make_split(), batch_size=3), epoch(make_split(), batch_size=30)
    assert all(torch.equal(small[i], large[i]) for i in small)


def test_batches_leave_the_global_random_state_alone():
    before = torch.get_rng_state()
    epoch(make_split())
    assert torch.equal(torch.get_rng_state(), before)


def test_batches_have_the_memory_format_asked_for():
    split = make_split()
    (batch, *_) = epoch_batches(
        split, batch_size=5, seed=0, epoch=0, augmentation=CROP_AND_FLIP, channels_last=True
    )
    assert batch.images.is_contiguous(memory_format=torch.channels_last)
    straight = epoch(split, batch_size=5)
    assert torch.equal(batch.images[0], straight[int(batch.ids[0])])


def test_steps_per_epoch_counts_whole_batches():
    assert steps_per_epoch(1297, 64) == 20


def test_steps_per_epoch_refuses_a_batch_larger_than_the_data():
    with pytest.raises(DataError, match="a batch of 31 is larger than the 30 training images"):
        steps_per_epoch(30, 31)


def test_to_float_leaves_floating_point_images_alone():
    images = torch.rand(2, 3, 4, 4, dtype=torch.float64)
    assert to_float(images) is images

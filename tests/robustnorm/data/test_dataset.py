import pytest
import torch

from robustnorm.data.dataset import Augmentation, Dataset, Split, split_validation, subset
from robustnorm.data.errors import DataError


def make_split(n=50, classes=5):
    generator = torch.Generator().manual_seed(n)
    images = torch.randint(256, (n, 3, 4, 4), generator=generator, dtype=torch.uint8)
    return Split(images, torch.arange(n) % classes)


def make_dataset(train=None, test=None, classes=5):
    return Dataset(
        name="made",
        classes=tuple("abcdefgh"[:classes]),
        train=make_split() if train is None else train,
        test=make_split(20) if test is None else test,
        augmentation=Augmentation(),
        sha256="00",
    )


def test_mean_and_std_are_those_of_the_training_images():
    dataset = make_dataset()
    values = dataset.train.images.double() / 255
    mean, std = values.mean((0, 2, 3)), values.std((0, 2, 3), correction=0)
    assert dataset.mean == pytest.approx(mean.tolist(), abs=1e-12)  # float64 sums
    assert dataset.std == pytest.approx(std.tolist(), abs=1e-12)


def test_std_of_a_constant_channel_is_not_zero():
    split = Split(torch.full((4, 1, 2, 2), 7, dtype=torch.uint8), torch.zeros(4, dtype=torch.int64))
    assert make_dataset(train=split).std[0] > 0


@pytest.mark.parametrize("label", [-1, 5])
def test_dataset_refuses_a_label_out_of_range(label):
    split = make_split()
    split.labels[17] = label
    with pytest.raises(DataError, match=rf"label {label} of test image 17 is not in 0\.\.4"):
        make_dataset(test=split)


@pytest.mark.parametrize("character", ["\u202a", "\x1b", "\udce9"])  # the last: no UTF-8
def test_dataset_refuses_names_that_no_report_can_show(character):
    """Text that turns writing around comes along when a path is copied from a window's title."""
    split = make_split()
    for name, first in (("made", f"{character}cat"), (f"made{character}", "cat")):
        with pytest.raises(DataError, match=r"\\.* has characters that no report can show; rename"):
            Dataset(name, (first, *"bcde"), split, split, Augmentation(), "00")
    shown = Dataset("\u05d0", ("\u05d1", *"bcde"), split, split, Augmentation(), "00")
    assert shown.classes[0] == "\u05d1"


def test_dataset_refuses_an_empty_split():
    empty = Split(torch.empty(0, 3, 4, 4, dtype=torch.uint8), torch.empty(0, dtype=torch.int64))
    with pytest.raises(DataError, match="made has no test images"):
        make_dataset(test=empty)


@pytest.mark.parametrize(
    ("images", "labels"),
    [
        (torch.zeros(2, 3, 4, 4), torch.zeros(2, dtype=torch.int64)),
        (torch.zeros(2, 3, 4, dtype=torch.uint8), torch.zeros(2, dtype=torch.int64)),
        (torch.zeros(2, 3, 4, 4, dtype=torch.uint8), torch.zeros(3, dtype=torch.int64)),
        (torch.zeros(2, 3, 4, 4, dtype=torch.uint8), torch.zeros(2)),
    ],
)
def test_split_refuses_other_shapes_and_types(images, labels):
    with pytest.raises(DataError, match=r"uint8 images \(N, C, H, W\) and int64 labels"):
        Split(images, labels)


def rows(split):
    return {tuple(image.flatten().tolist()) for image in split.images}


@pytest.mark.parametrize("limit", [None, 10, 42])
def test_validation_is_apart_from_training_and_the_same_for_any_limit(limit):
    split = make_split()
    training, validation = split_validation(split, 8, limit)
    assert len(validation) == 8
    assert len(training) == (42 if limit is None else limit)
    assert not rows(training) & rows(validation)
    assert torch.equal(validation.images, split_validation(split, 8)[1].images)


def test_validation_holds_all_classes_of_sorted_images():
    split = make_split(500)
    split = split.take(split.labels.argsort())
    _, validation = split_validation(split, 60)
    assert set(validation.labels.tolist()) == set(range(5))


@pytest.mark.parametrize(("validation", "limit"), [(50, None), (20, 31)])
def test_validation_refuses_more_images_than_there_are(validation, limit):
    with pytest.raises(DataError, match="the data have 50; lower --validation or --train_limit"):
        split_validation(make_split(), validation, limit)


def test_subset_is_fixed_and_nested_and_names_its_images():
    split = make_split()
    few_ids, few = subset(split, 5)
    more_ids, _ = subset(split, 20)
    assert torch.equal(few.images, split.images[few_ids])
    assert few_ids.tolist() == sorted(few_ids.tolist())
    assert set(few_ids.tolist()) < set(more_ids.tolist())


def test_subset_without_a_limit_is_everything():
    split = make_split()
    ids, everything = subset(split, None)
    assert ids.tolist() == list(range(50))
    assert everything is split


def test_subset_refuses_more_images_than_there_are():
    with pytest.raises(DataError, match="51 images are required, but the data have 50"):
        subset(make_split(), 51)

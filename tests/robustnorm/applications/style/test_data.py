"""Pairs of crops by number, and which pictures a figure takes."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from robustnorm.applications.style import data
from robustnorm.applications.style.data import (
    Pairs,
    embedded_classes,
    load_sources,
    training_batches,
    validation_pairs,
)
from robustnorm.applications.style.pictures import InMemory
from robustnorm.data.errors import DataError
from robustnorm.settings.style import StyleSettings


def made_pictures(count, seed=0):
    generator = torch.Generator().manual_seed(seed)
    shape = (count, 3, 12, 15)
    pictures = list(torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8))
    return InMemory("made", pictures, f"{seed}")


def test_pair_follows_from_seed_and_number_alone():
    pairs = Pairs(made_pictures(5), made_pictures(4, 1), 8, seed=3, recolor=True)
    first = [pairs[number] for number in range(6)]
    again = [pairs[number] for number in reversed(range(6))][::-1]
    for one, other in zip(first, again, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))
    differently = Pairs(made_pictures(5), made_pictures(4, 1), 8, seed=4, recolor=True)
    assert not torch.equal(first[0][0], differently[0][0])


def test_crops_are_squares_of_the_pictures():
    pictures = made_pictures(3)
    pairs = Pairs(pictures, pictures, 8, seed=0)
    for number in range(20):
        for crop in pairs[number]:
            assert crop.shape == (3, 8, 8)
            windows = [
                picture[:, top : top + 8, left : left + 8].float() / 255
                for picture in pictures.pictures
                for top in range(5)
                for left in range(8)
            ]
            assert any(torch.equal(crop, window) for window in windows)


def test_pairs_in_order_take_each_picture_in_turn():
    flat = [torch.full((3, 8, 8), value, dtype=torch.uint8) for value in (51, 102, 255)]
    pairs = Pairs(InMemory("", flat, ""), InMemory("", flat[:2], ""), 8, seed=0, in_order=True)
    values = [tuple(round(float(part[0, 0, 0]), 1) for part in pairs[i]) for i in range(4)]
    assert values == [(0.2, 0.2), (0.4, 0.4), (1.0, 0.2), (0.2, 0.4)]


def test_recoloring_changes_colors_and_leaves_content_alone():
    pictures = made_pictures(2)
    plain, mixed = (Pairs(pictures, pictures, 8, 0, recolor=recolor)[0] for recolor in (0, 1))
    assert torch.equal(plain[0], mixed[0])
    assert not torch.equal(plain[1], mixed[1])
    assert mixed[1].min() >= 0
    assert mixed[1].max() <= 1


def folder_settings(tmp_path, **changes):
    for name, count in (("content", 4), ("style", 3)):
        folder = tmp_path / name
        folder.mkdir()
        for i in range(count):
            random = np.random.default_rng(i)
            pixels = random.integers(0, 256, (20, 24, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / f"{i}.png")
    (tmp_path / "vgg.safetensors").touch()  # with it no classes are read
    values = {
        "content": str(tmp_path / "content"),
        "style": str(tmp_path / "style"),
        "vgg": str(tmp_path / "vgg.safetensors"),
        "data_root": str(tmp_path / "cache"),
        "crop": 8,
        "resize": 16,
        "steps": 6,
        "validate_every": 3,
        "batch_size": 2,
        "validation_pairs": 7,
    }
    return StyleSettings(**(values | changes))


def test_folders_take_the_place_of_every_other_picture(tmp_path):
    sources = load_sources(folder_settings(tmp_path, validation_style=str(tmp_path / "style")))
    assert sources.classes is None
    assert (len(sources.content), len(sources.validation_content)) == (3, 1)
    assert (len(sources.style), len(sources.validation_style)) == (3, 3)
    described = sources.describe()
    assert described["content"]["name"] == "content (training)"
    assert described["style"] == {
        "name": "style",
        "pictures": 3,
        "sha256": sources.style.sha256,
    }


def test_missing_places_are_told_before_pictures_are_looked_through(tmp_path, monkeypatch):
    settings = folder_settings(tmp_path, validation_style=str(tmp_path / "missing"))
    monkeypatch.setattr(data, "read_folder", lambda *_, **__: pytest.fail("looked through"))
    with pytest.raises(
        DataError, match=r"--validation_style must be a folder .*missing is not a folder"
    ):
        load_sources(settings)
    with pytest.raises(DataError, match=r"--vgg must be .*there is no file .*vgg\.pth"):
        load_sources(replace(settings, validation_style=None, vgg=str(tmp_path / "vgg.pth")))


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_do_not_depend_on_where_a_run_goes_on(tmp_path, workers):
    settings = folder_settings(tmp_path)
    sources = load_sources(settings)
    whole = list(training_batches(sources, settings, 0, 0))
    rest = list(training_batches(sources, replace(settings, workers=workers), 0, 4))
    assert (len(whole), len(rest)) == (6, 2)
    for one, other in zip(whole[4:], rest, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def test_batches_leave_the_global_random_state_alone(tmp_path):
    settings = folder_settings(tmp_path)
    sources = load_sources(settings)
    before = torch.get_rng_state()
    list(training_batches(sources, settings, 0, 0))
    assert torch.equal(torch.get_rng_state(), before)


def test_validation_pairs_are_fixed_and_all_there(tmp_path):
    settings = folder_settings(tmp_path)
    sources = load_sources(settings)
    first, again = validation_pairs(sources, settings), validation_pairs(sources, settings)
    assert sum(len(content) for content, _ in first) == 7
    for one, other in zip(first, again, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def test_embedded_classes_test_on_other_parts_of_the_pictures():
    classes = embedded_classes(crop=8)
    assert classes.train.images.shape[1:] == (3, 8, 8)
    assert len(classes.classes) == 15
    for split, each in ((classes.train, 600), (classes.test, 40)):
        assert (split.labels.bincount() == each).all()


def test_grey_data_set_is_refused():
    with pytest.raises(
        DataError, match=r"needs RGB images of at least 8x8, .*digits has 8x8 with 1"
    ):
        load_sources(StyleSettings(data="digits", crop=8))

import io
import os
import shutil
import tarfile

import numpy as np
import pytest
import torch
from data_files import pack
from PIL import Image

from robustnorm.data import listing, load_dataset
from robustnorm.data.dataset import split_validation
from robustnorm.data.errors import DataError, RefusedDataError


def write_image(path, value=0, size=(8, 6), mode="RGB"):
    path.parent.mkdir(parents=True, exist_ok=True)
    bands = {"RGB": 3, "RGBA": 4, "L": 1}[mode]
    pixels = np.random.default_rng(value).integers(0, 256, (size[1], size[0], bands), np.uint8)
    Image.fromarray(pixels.squeeze(), mode).save(path)
    return pixels


@pytest.fixture
def folder(tmp_path):
    root = tmp_path / "pets"
    for part, count in (("train", 3), ("test", 2)):
        for label, name in enumerate(("cat", "dog")):
            for i in range(count):
                write_image(root / part / name / f"{i}.png", value=10 * label + i)
    return root


def load(path, tmp_path):
    return load_dataset(str(path), root=tmp_path / "cache")


def test_folder_gives_images_labels_and_classes(folder, tmp_path):
    dataset = load(folder, tmp_path)
    assert (dataset.name, dataset.classes) == ("pets", ("cat", "dog"))
    assert dataset.train.images.shape == (6, 3, 6, 8)
    assert dataset.train.labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert dataset.test.labels.tolist() == [0, 0, 1, 1]
    expected = write_image(tmp_path / "again.png", value=11)
    assert np.array_equal(dataset.train.images[4].permute(1, 2, 0).numpy(), expected)


def test_folder_of_grey_images_has_one_channel(tmp_path):
    for part in ("train", "test"):
        write_image(tmp_path / "grey" / part / "a" / "0.png", mode="L")
    assert load(tmp_path / "grey", tmp_path).train.images.shape == (1, 1, 6, 8)


def test_folder_reads_jpeg(tmp_path):
    for part in ("train", "test"):
        write_image(tmp_path / "jpegs" / part / "a" / "0.jpg")
    with Image.open(tmp_path / "jpegs" / "train" / "a" / "0.jpg") as image:
        expected = np.asarray(image)
    image = load(tmp_path / "jpegs", tmp_path).train.images[0]
    assert np.array_equal(image.permute(1, 2, 0).numpy(), expected)


def test_folder_ignores_hidden_files(folder, tmp_path):
    (folder / "train" / "cat" / ".DS_Store").write_text("x")
    (folder / "train" / ".cache").mkdir()
    assert len(load(folder, tmp_path).train) == 6


def test_second_load_reads_the_decoded_images(folder, tmp_path, monkeypatch):
    first = load(folder, tmp_path)
    monkeypatch.setattr(listing, "_decode", None)
    second = load(folder, tmp_path)
    assert torch.equal(second.train.images, first.train.images)
    assert second.sha256 == first.sha256


def test_changed_image_is_decoded_again(folder, tmp_path):
    first = load(folder, tmp_path)
    write_image(folder / "train" / "cat" / "0.png", value=99)
    second = load(folder, tmp_path)
    assert not torch.equal(second.train.images, first.train.images)
    assert second.sha256 != first.sha256


def test_damaged_cache_is_rebuilt(folder, tmp_path):
    first = load(folder, tmp_path)
    (kept,) = (tmp_path / "cache").glob("decoded-*")
    kept.write_bytes(kept.read_bytes()[:100])
    assert torch.equal(load(folder, tmp_path).train.images, first.train.images)


def test_hash_depends_on_content_not_on_place(folder, tmp_path):
    moved = tmp_path / "elsewhere" / "animals"
    shutil.copytree(folder, moved)
    assert load(folder, tmp_path).sha256 == load(moved, tmp_path).sha256


@pytest.mark.parametrize("mode", ["w:xz", "w:gz", "w", "zip"])
def test_archive_gives_what_its_folder_gives(folder, tmp_path, mode):
    dataset = load(pack(folder, tmp_path / "pets.tar", mode), tmp_path)
    assert dataset.sha256 == load(folder, tmp_path).sha256
    assert dataset.name == "pets"


def test_archive_is_unpacked_once(folder, tmp_path, monkeypatch):
    archive = pack(folder, tmp_path / "pets.tar.xz")
    first = load(archive, tmp_path)
    monkeypatch.setattr(tarfile, "open", None)
    assert load(archive, tmp_path).sha256 == first.sha256


def test_known_copy_is_named_as_what_it_is(folder, tmp_path, monkeypatch):
    sha256 = load(folder, tmp_path).sha256
    monkeypatch.setitem(listing._KNOWN_NAMES, sha256, "Pets (PNG)")
    assert load(folder, tmp_path).name == "Pets (PNG)"


def refused(path, tmp_path, message):
    with pytest.raises(DataError, match=message):
        load(path, tmp_path)


def test_missing_path_is_refused(tmp_path):
    refused(tmp_path / "nowhere", tmp_path, "A path must lead to.*nowhere' does not exist")


def test_folder_without_test_images_is_refused(folder, tmp_path):
    shutil.rmtree(folder / "test")
    refused(
        folder, tmp_path, r"pets has no folder test/ or val/ with class folders: images are read"
    )


@pytest.mark.parametrize(("part", "other"), [("train", "test"), ("test", "train")])
def test_class_lists_that_differ_are_refused(folder, tmp_path, part, other):
    shutil.rmtree(folder / part / "dog")
    refused(folder, tmp_path, rf"{part} lacks images of classes that {other}/ has: dog")


def test_folder_without_classes_is_refused(folder, tmp_path):
    for part in ("train", "test"):
        shutil.rmtree(folder / part)
        (folder / part).mkdir()
        (folder / part / "1.png").write_bytes(b"")
    refused(folder, tmp_path, "train has no class folders")


def test_empty_class_is_refused(folder, tmp_path):
    for file in (folder / "test" / "dog").iterdir():
        file.unlink()
    refused(folder, tmp_path, r"test lacks images of classes that train/ has: dog")


def test_corrupt_image_is_refused_by_name(folder, tmp_path):
    path = folder / "train" / "dog" / "1.png"
    path.write_bytes(path.read_bytes()[:60])
    refused(folder, tmp_path, r"dog/1\.png is not a readable image .*; replace or remove it")


def test_text_among_the_images_is_refused_by_name(folder, tmp_path):
    (folder / "train" / "dog" / "notes.txt").write_text("no image")
    refused(folder, tmp_path, r"dog/notes\.txt is not a readable image")


def test_image_of_another_size_is_refused_by_name(folder, tmp_path):
    write_image(folder / "train" / "dog" / "2.png", size=(9, 6))
    refused(folder, tmp_path, r"dog/2\.png is 9x6, but the images before it are 8x6; .* --resize 6")


def test_test_images_of_another_size_are_refused(folder, tmp_path):
    for file in (folder / "test").rglob("*.png"):
        write_image(file, size=(9, 6))
    refused(folder, tmp_path, r"test/cat/0\.png is 9x6, but the images before it are 8x6")


def test_grey_image_among_rgb_ones_is_made_rgb(folder, tmp_path):
    grey = write_image(folder / "train" / "cat" / "1.png", mode="L").squeeze()
    image = load(folder, tmp_path).train.images[1]
    assert np.array_equal(image.numpy(), np.stack([grey] * 3))


def test_val_and_other_spellings_and_folders_below_a_class_are_read(folder, tmp_path):
    plain = load(folder, tmp_path)
    (folder / "train").rename(folder / "Train")
    (folder / "test").rename(folder / "val")
    (folder / "Train" / "cat" / "Thumbs.db").write_bytes(b"x")
    (folder / "Train" / "dog" / "old").mkdir()
    (folder / "Train" / "dog" / "2.png").rename(folder / "Train" / "dog" / "old" / "2.png")
    assert torch.equal(load(folder, tmp_path).train.images, plain.train.images)


def test_folder_of_test_images_alone_serves_an_evaluation(folder, tmp_path):
    shutil.rmtree(folder / "train")
    dataset = load(folder, tmp_path)
    assert (len(dataset.train), len(dataset.test), dataset.mean) == (0, 4, (0, 0, 0))
    with pytest.raises(DataError, match="no training images"):
        split_validation(dataset.train, 1)


def test_images_of_several_sizes_are_brought_to_one(folder, tmp_path):
    write_image(folder / "train" / "cat" / "0.png", size=(40, 11))
    dataset = load_dataset(str(folder), root=tmp_path / "cache", resize=5)
    assert dataset.train.images.shape == (6, 3, 5, 5)
    assert dataset.name == "pets at 5x5"
    assert dataset.sha256 != load_dataset(str(folder), root=tmp_path, resize=6).sha256


def test_images_left_on_disk_are_those_in_memory(folder, tmp_path):
    kept = load_dataset(str(folder), root=tmp_path / "cache", resize=5)
    stored = load_dataset(str(folder), root=tmp_path / "cache", resize=5, stream=True)
    assert stored.sha256 == kept.sha256
    rows = torch.tensor([4, 0, 4])
    assert torch.equal(stored.train.images[rows], kept.train.images[rows])
    part = stored.train.take(rows)
    assert part.images.shape == (3, 3, 5, 5)
    assert torch.equal(part.images[1:], kept.train.images[rows[1:]])
    assert stored.mean == kept.mean


def test_image_that_changes_under_a_stored_data_set_is_refused(folder, tmp_path):
    stored = load_dataset(str(folder), root=tmp_path / "cache", stream=True)
    write_image(folder / "train" / "cat" / "0.png", value=99)
    with pytest.raises(RefusedDataError, match=r"cat/0\.png has changed since"):
        stored.train.images[:1]


def test_data_of_the_same_names_sizes_and_times_are_other_data(tmp_path):
    hashes = []
    for value in (3, 4):
        for part in ("train", "test"):
            path = tmp_path / str(value) / "set" / part / "a" / "0.bmp"
            write_image(path, value=value)
            os.utime(path, (1, 1))
        hashes.append(load(tmp_path / str(value) / "set", tmp_path).sha256)
    assert hashes[0] != hashes[1]


def test_no_damage_of_the_decoded_images_passes(folder, tmp_path):
    first = load(folder, tmp_path)
    [path] = (tmp_path / "cache").glob("decoded-*")
    whole, random = path.read_bytes(), np.random.default_rng(0)
    for _ in range(30):
        damaged = bytearray(whole)
        damaged[random.integers(len(whole))] ^= 1 << random.integers(8)
        path.write_bytes(damaged)
        assert torch.equal(load(folder, tmp_path).train.images, first.train.images)
        assert path.read_bytes() == whole


def test_file_that_is_no_archive_is_refused(tmp_path):
    (tmp_path / "page.tar.xz").write_text("<html>")
    refused(tmp_path / "page.tar.xz", tmp_path, r"page\.tar\.xz cannot be read .*download it again")


def test_truncated_archive_leaves_nothing_behind(folder, tmp_path):
    archive = pack(folder, tmp_path / "pets.tar.xz")
    archive.write_bytes(archive.read_bytes()[:-200])
    refused(archive, tmp_path, "cannot be read")
    assert list((tmp_path / "cache").iterdir()) == []


@pytest.mark.parametrize("name", ["../outside.txt", "/outside.txt"])
def test_archive_with_a_member_that_escapes_is_refused(tmp_path, name):
    archive = tmp_path / "bad.tar"
    with tarfile.open(archive, "w") as tar:
        member = tarfile.TarInfo(name)
        member.size = 1
        tar.addfile(member, io.BytesIO(b"x"))
    refused(archive, tmp_path, "leads outside")
    assert not (tmp_path / "outside.txt").exists()


def test_archive_with_a_link_that_escapes_is_refused(tmp_path):
    archive = tmp_path / "bad.tar"
    with tarfile.open(archive, "w") as tar:
        member = tarfile.TarInfo("train")
        member.type = tarfile.SYMTYPE
        member.linkname = "../../outside"
        tar.addfile(member)
    refused(archive, tmp_path, "cannot be read")

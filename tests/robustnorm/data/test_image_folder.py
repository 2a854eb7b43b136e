import io
import shutil
import tarfile

import numpy as np
import pytest
import torch
from PIL import Image

from robustnorm.data import image_folder, load_dataset
from robustnorm.data.errors import DataError


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


def pack(folder, archive, mode="w:xz"):
    with tarfile.open(archive, mode) as tar:
        tar.add(folder, folder.name)
    return archive


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
    monkeypatch.setattr(image_folder, "_decode", None)
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


@pytest.mark.parametrize("mode", ["w:xz", "w:gz", "w"])
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
    monkeypatch.setitem(image_folder._KNOWN_NAMES, sha256, "Pets (PNG)")
    assert load(folder, tmp_path).name == "Pets (PNG)"


def refused(path, tmp_path, message):
    with pytest.raises(DataError, match=message):
        load(path, tmp_path)


def test_missing_path_is_refused(tmp_path):
    refused(tmp_path / "nowhere", tmp_path, "A path must exist.*nowhere' does not")


def test_folder_without_test_images_is_refused(folder, tmp_path):
    shutil.rmtree(folder / "test")
    refused(folder, tmp_path, r"pets has no folder test/: images are read from train/<class>/")


@pytest.mark.parametrize(("part", "other"), [("train", "test"), ("test", "train")])
def test_class_lists_that_differ_are_refused(folder, tmp_path, part, other):
    shutil.rmtree(folder / part / "dog")
    refused(folder, tmp_path, rf"{part} lacks classes that {other}/ has: dog")


def test_folder_without_classes_is_refused(folder, tmp_path):
    for part in ("train", "test"):
        shutil.rmtree(folder / part)
        (folder / part).mkdir()
    refused(folder, tmp_path, "train has no class folders")


def test_empty_class_is_refused(folder, tmp_path):
    for file in (folder / "test" / "dog").iterdir():
        file.unlink()
    refused(folder, tmp_path, r"test/dog is empty; put images there or remove the class")


def test_corrupt_image_is_refused_by_name(folder, tmp_path):
    path = folder / "train" / "dog" / "1.png"
    path.write_bytes(path.read_bytes()[:60])
    refused(folder, tmp_path, r"dog/1\.png is not a readable image .*; replace or remove it")


def test_text_among_the_images_is_refused_by_name(folder, tmp_path):
    (folder / "train" / "dog" / "notes.txt").write_text("no image")
    refused(folder, tmp_path, r"dog/notes\.txt is not a readable image")


def test_image_of_another_size_is_refused_by_name(folder, tmp_path):
    write_image(folder / "train" / "dog" / "2.png", size=(9, 6))
    refused(folder, tmp_path, r"dog/2\.png is 9x6 RGB, the images before it are 8x6 RGB")


def test_test_images_of_another_size_are_refused(folder, tmp_path):
    for file in (folder / "test").rglob("*.png"):
        write_image(file, size=(9, 6))
    refused(folder, tmp_path, r"test has images of 9x6 RGB, .*train of 8x6 RGB")


def test_image_of_another_mode_is_refused_by_name(folder, tmp_path):
    write_image(folder / "train" / "cat" / "0.png", mode="RGBA")
    refused(folder, tmp_path, r"cat/0\.png is of mode RGBA; convert it to RGB or to grey")


def test_grey_image_among_rgb_ones_is_refused_by_name(folder, tmp_path):
    write_image(folder / "train" / "cat" / "1.png", mode="L")
    refused(folder, tmp_path, r"cat/1\.png is 8x6 grey, the images before it are 8x6 RGB")


def test_file_that_is_no_archive_is_refused(tmp_path):
    (tmp_path / "page.tar.xz").write_text("<html>")
    refused(
        tmp_path / "page.tar.xz", tmp_path, r"page\.tar\.xz cannot be unpacked .*fetch it again"
    )


def test_truncated_archive_leaves_nothing_behind(folder, tmp_path):
    archive = pack(folder, tmp_path / "pets.tar.xz")
    archive.write_bytes(archive.read_bytes()[:-200])
    refused(archive, tmp_path, "cannot be unpacked")
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
    refused(archive, tmp_path, "cannot be unpacked")

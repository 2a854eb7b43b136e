"""Published data sets by name, in files made here as the published ones are laid out."""

import gzip
import hashlib
import io
import shutil
import struct
import tarfile
import zipfile

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat

from robustnorm.data import (
    DATASETS,
    cifar10,
    cifar100,
    imagenette,
    load_dataset,
    mnist,
    stl10,
    svhn,
    unpacking,
)
from robustnorm.data.errors import DataError, RefusedDataError

RANDOM = np.random.default_rng(0)


def pixels(n, size, channels=3):
    return RANDOM.integers(0, 256, (n, channels, size, size), np.uint8)


def read(name, root, **options):
    return load_dataset(name, root=root, **options)


@pytest.fixture
def binary_cifar100(tmp_path):
    (tmp_path / "cifar-100-binary").mkdir()
    made = {}
    for part, n in (("train", 5), ("test", 3)):
        images, labels = pixels(n, 32), RANDOM.integers(0, 100, n, np.uint8)
        rows = np.concatenate([labels[:, None] // 5, labels[:, None], images.reshape(n, -1)], 1)
        (tmp_path / "cifar-100-binary" / f"{part}.bin").write_bytes(rows.tobytes())
        made[part] = images, labels
    return made


@pytest.mark.parametrize("by_path", [False, True])
def test_binary_cifar100(tmp_path, binary_cifar100, by_path):
    dataset = read(str(tmp_path / "cifar-100-binary") if by_path else "cifar100", tmp_path)
    for split, part in ((dataset.train, "train"), (dataset.test, "test")):
        images, labels = binary_cifar100[part]
        assert np.array_equal(split.images.numpy(), images)
        assert split.labels.tolist() == labels.tolist()
    assert dataset.name == "CIFAR-100 (binary files, unverified)"


@pytest.mark.parametrize(
    ("name", "folder"), [("mnist", "MNIST/raw"), ("fashion-mnist", "FashionMNIST")]
)
def test_mnist_and_its_kin(tmp_path, name, folder):
    made = {"train": pixels(5, 28, 1), "t10k": pixels(3, 28, 1)}
    (tmp_path / folder).mkdir(parents=True)
    for start, images in made.items():
        header = struct.pack(">4I", 0x803, len(images), 28, 28)
        labels = struct.pack(">2I", 0x801, len(images)) + bytes(range(len(images)))
        for kind, data in (("images-idx3", header + images.tobytes()), ("labels-idx1", labels)):
            (tmp_path / folder / f"{start}-{kind}-ubyte.gz").write_bytes(gzip.compress(data))
    dataset = read(name, tmp_path)
    assert np.array_equal(dataset.train.images.numpy(), made["train"])
    assert dataset.test.labels.tolist() == [0, 1, 2]
    assert dataset.name.endswith("(not the published files)")
    assert not dataset.augmentation.flip


def test_svhn_calls_ten_zero_and_only_published_files_are_read(tmp_path, monkeypatch):
    made, files = {part: pixels(3, 32) for part in ("train", "test")}, {}
    for part, images in made.items():
        content = {"X": images.transpose(2, 3, 1, 0), "y": np.array([[10], [1], [9]], np.uint8)}
        path = tmp_path / f"{part}_32x32.mat"
        savemat(path, content)
        files[part] = path.name, hashlib.md5(path.read_bytes()).hexdigest()
    with pytest.raises(RefusedDataError, match=r"train_32x32\.mat is not the published file"):
        read("svhn", tmp_path)
    monkeypatch.setattr(svhn, "_FILES", files)
    dataset = read("svhn", tmp_path)
    assert np.array_equal(dataset.test.images.numpy(), made["test"])
    assert dataset.test.labels.tolist() == [0, 1, 9]


@pytest.mark.parametrize("packed", [False, True])
def test_stl10_is_stored_by_columns(tmp_path, packed):
    folder = tmp_path / "stl10_binary"
    folder.mkdir()
    made = {part: pixels(2, 96) for part in ("train", "test")}
    for part, images in made.items():
        (folder / f"{part}_X.bin").write_bytes(images.transpose(0, 1, 3, 2).tobytes())
        (folder / f"{part}_y.bin").write_bytes(bytes([1, 10]))
    (folder / "unlabeled_X.bin").write_bytes(bytes(1000))
    if packed:
        with tarfile.open(tmp_path / "stl10_binary.tar.gz", "w:gz") as tar:
            tar.add(folder, folder.name)
        shutil.rmtree(folder)
    dataset = read("stl10", tmp_path)
    assert np.array_equal(dataset.train.images.numpy(), made["train"])
    assert dataset.train.labels.tolist() == [0, 9]
    assert (folder / "unlabeled_X.bin").exists() is not packed


def encoded(image, kind="JPEG"):
    file = io.BytesIO()
    Image.fromarray(image.transpose(1, 2, 0)).save(file, kind)
    return file.getvalue()


@pytest.mark.parametrize("packed", [False, True])
def test_tiny_imagenet_tests_on_the_annotated_images(tmp_path, packed):
    files = {}
    for number, name in enumerate(("n02", "n01")):
        for i in range(3):
            image = encoded(pixels(1, 64)[0])
            files[f"train/{name}/images/{name}_{i}.JPEG"] = image
        files[f"train/{name}/{name}_boxes.txt"] = b"boxes"
        files[f"val/images/val_{number}.JPEG"] = encoded(pixels(1, 64)[0])
    files["val/val_annotations.txt"] = b"val_0.JPEG\tn02\t0\t0\nval_1.JPEG\tn01\t0\t0\n"
    files["test/images/test_0.JPEG"] = files["val/images/val_0.JPEG"]
    files["wnids.txt"] = b"n01\nn02\n"
    if packed:
        with zipfile.ZipFile(tmp_path / "tiny-imagenet-200.zip", "w") as archive:
            for name, data in files.items():
                archive.writestr(f"tiny-imagenet-200/{name}", data)
    else:
        for name, data in files.items():
            path = tmp_path / "tiny-imagenet-200" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
    dataset = read("tiny-imagenet", tmp_path)
    assert dataset.classes == ("n01", "n02")
    assert dataset.train.labels.tolist() == [0, 0, 0, 1, 1, 1]
    with Image.open(io.BytesIO(files["val/images/val_1.JPEG"])) as image:
        expected = np.asarray(image).transpose(2, 0, 1)
    assert np.array_equal(dataset.test.images[0].numpy(), expected)
    assert dataset.test.labels.tolist() == [0, 1]


def write_imagenette(root):
    with tarfile.open(root / "imagenette2-160.tgz", "w:gz") as tar:
        for part in ("train", "val"):
            for name in ("n01", "n02"):
                data = encoded(pixels(1, 170)[0])
                member = tarfile.TarInfo(f"imagenette2-160/{part}/{name}/1.JPEG")
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
    return root / "imagenette2-160.tgz"


def test_imagenette_is_brought_to_one_size(tmp_path):
    write_imagenette(tmp_path)
    assert read("imagenette", tmp_path).test.images.shape == (2, 3, 160, 160)
    assert read("imagenette", tmp_path, resize=32).test.images.shape == (2, 3, 32, 32)


def test_published_file_is_downloaded_once(tmp_path, monkeypatch):
    (tmp_path / "there").mkdir()
    published = write_imagenette(tmp_path / "there")
    monkeypatch.setattr(imagenette, "_URL", published.as_uri())
    monkeypatch.setattr(imagenette, "_MD5", hashlib.md5(published.read_bytes()).hexdigest())
    root = tmp_path / "here"
    assert len(read("imagenette", root, download=True).train) == 2
    published.unlink()
    assert len(read("imagenette", root, download=True).train) == 2


def test_another_file_than_the_published_one_is_refused_and_not_kept(tmp_path):
    (tmp_path / "other").write_bytes(b"other")
    with pytest.raises(DataError, match=r"could not be downloaded \(its md5 is .*by other means"):
        unpacking.download((tmp_path / "other").as_uri(), tmp_path / "root" / "file", "0" * 32)
    assert list((tmp_path / "root").iterdir()) == []


def test_failed_download_is_one_message(tmp_path, monkeypatch):
    monkeypatch.setattr(cifar10, "_URL", (tmp_path / "nothing").as_uri())
    with pytest.raises(DataError, match="nothing could not be downloaded") as raised:
        read("cifar10", tmp_path, download=True)
    assert len(str(raised.value).splitlines()) == 1


@pytest.mark.parametrize("name", [name for name in DATASETS if name != "digits"])
def test_missing_data_say_how_to_get_them(tmp_path, name):
    with pytest.raises(DataError) as raised:
        read(name, tmp_path)
    assert str(tmp_path) in str(raised.value)
    assert len(str(raised.value).splitlines()) == 1


def test_places_and_hashes_are_torchvision_s(torchvision_library):
    from torchvision import datasets

    known = {datasets.CIFAR10: cifar10, datasets.CIFAR100: cifar100, datasets.STL10: stl10}
    for theirs, ours in known.items():
        assert (theirs.url, theirs.tgz_md5) == (ours._URL, ours._MD5)
    assert stl10._IMAGES["train"] == datasets.STL10.train_list[0][1]
    assert stl10._IMAGES["test"] == datasets.STL10.test_list[0][1]
    for part, (name, md5) in svhn._FILES.items():
        assert [f"{svhn._URL}/{name}", name, md5] == datasets.SVHN.split_list[part]
    for theirs in (datasets.MNIST, datasets.FashionMNIST):
        named = zip(mnist._FILES, mnist._MD5[theirs.__name__], strict=True)
        assert theirs.resources == [(f"{file}-ubyte.gz", md5) for file, md5 in named]
        assert any(url.startswith(mnist._URLS[theirs.__name__]) for url in theirs.mirrors)
    assert datasets.Imagenette._ARCHIVES["160px"] == (imagenette._URL, imagenette._MD5)

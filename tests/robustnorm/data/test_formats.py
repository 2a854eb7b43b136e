"""Data in the formats that people have, each made here as its writers make it."""

import gzip
import shutil
import sys

import numpy as np
import pytest
import torch
from data_files import idx, write_csv, write_images, write_parquet

from robustnorm.data import FORMATS, format_of, load_dataset
from robustnorm.data.errors import DataError, RefusedDataError

RANDOM = np.random.default_rng(0)
TRAIN, TEST = (RANDOM.integers(0, 256, (n, 8, 8, 3), np.uint8) for n in (6, 4))
LABELS = {"train": np.array([0, 1, 2, 0, 1, 2]), "test": np.array([2, 1, 0, 2])}

PARTS = {"train": (TRAIN, LABELS["train"]), "test": (TEST, LABELS["test"])}


def read(path, **options):
    return load_dataset(str(path), root=path.parent / "cache", **options)


def holds(dataset, *, train=True, images=(TRAIN, TEST)):
    assert len(dataset.train) == (6 if train else 0)
    for split, pixels, part in zip(
        (dataset.train, dataset.test), images, ("train", "test"), strict=True
    ):
        if len(split):
            assert torch.equal(split.images[:], torch.from_numpy(pixels).permute(0, 3, 1, 2))
            assert split.labels.tolist() == LABELS[part].tolist()
    return True


@pytest.mark.parametrize(
    ("names", "train"),
    [
        (("x_train", "y_train", "x_test", "y_test"), True),
        (("train_images", "train_labels", "test_images", "test_labels"), True),
        (("train_images", "train_labels", "val_images", "val_labels"), True),
        ((None, None, "x_test", "y_test"), False),
        ((None, None, "images", "labels"), False),
        ((None, None, "arr_0", "arr_1"), False),
    ],
)
def test_npz(tmp_path, names, train):
    values = (TRAIN, LABELS["train"], TEST, LABELS["test"])
    arrays = {n: v for n, v in zip(names, values, strict=True) if n}
    np.savez_compressed(tmp_path / "set.npz", **arrays)
    dataset = read(tmp_path / "set.npz")
    assert holds(dataset, train=train)
    assert (dataset.name, dataset.classes) == ("set", ("0", "1", "2"))


@pytest.mark.parametrize(
    ("images", "labels"),
    [
        (TEST.transpose(0, 3, 1, 2), LABELS["test"][:, None]),
        (TEST / 255, np.eye(3)[LABELS["test"]]),
        ((TEST / 255).astype(np.float32), LABELS["test"].astype(np.uint8)),
        (TEST.astype(np.int64), LABELS["test"].astype(np.float32)),
        (TEST.astype(">i4"), LABELS["test"].astype(">i8")),
    ],
)
def test_arrays_of_other_shapes_and_types(tmp_path, images, labels):
    np.savez(tmp_path / "set.npz", x_test=images, y_test=labels)
    assert holds(read(tmp_path / "set.npz"), train=False)


def test_truth_values_are_white_and_black(tmp_path):
    np.savez(tmp_path / "set.npz", images=TEST > 127, labels=LABELS["test"])
    expected = np.where(TEST > 127, 255, 0).transpose(0, 3, 1, 2)
    assert np.array_equal(read(tmp_path / "set.npz").test.images, expected)


def test_grey_arrays_have_one_channel(tmp_path):
    np.savez(tmp_path / "set.npz", images=TEST[..., 0], labels=LABELS["test"])
    assert read(tmp_path / "set.npz").test.images.shape == (4, 1, 8, 8)


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        (TEST / 127.5 - 1, LABELS["test"], "must hold images of 8 bits.*without normalization"),
        (TEST[..., :2], LABELS["test"], "1 or 3 channels, got"),
        (TEST, LABELS["test"][:3], "a label for each of its 4 images"),
        (TEST, LABELS["test"] + 0.5, "a label for each of its 4 images"),
        (TEST, LABELS["test"] + 2**40, "labels must be below 100,000"),
        (TEST, LABELS["test"] - 1, "label -1 of test image 2 is not in"),
        (np.full((4, 8, 8), np.nan), LABELS["test"], "must hold images of 8 bits"),
        (TEST, np.array(["a"] * 4), "must hold arrays of numbers"),
        (np.array([{}] * 4, object), LABELS["test"], "not a valid file of plain numpy arrays"),
    ],
)
def test_arrays_that_are_no_images_or_labels_are_refused(tmp_path, images, labels, message):
    np.savez(tmp_path / "set.npz", x_test=images, y_test=labels)
    with pytest.raises(DataError, match=message) as raised:
        read(tmp_path / "set.npz")
    assert len(str(raised.value).splitlines()) == 1


def test_other_names_in_an_npz_are_listed(tmp_path):
    np.savez(tmp_path / "set.npz", pixels=TEST)
    with pytest.raises(DataError, match=r"must hold x_test and y_test.*it holds pixels"):
        read(tmp_path / "set.npz")


@pytest.mark.parametrize("suffix", ["npz", "npy", "pt", "csv", "parquet", "tar", "zip"])
@pytest.mark.parametrize("content", [b"", b"<html>", b"PK\x03\x04" + bytes(50), b"\x93NUMPY\x01\0"])
def test_files_of_another_kind_are_refused_in_a_line(tmp_path, suffix, content):
    (tmp_path / f"set.{suffix}").write_bytes(content)
    with pytest.raises(DataError) as raised:
        read(tmp_path / f"set.{suffix}")
    assert len(str(raised.value).splitlines()) == 1


def test_cifar10_c_and_arrays_that_stay_on_disk(tmp_path):
    folder = tmp_path / "CIFAR-10-C"
    folder.mkdir()
    for name, values in {"fog": TEST, "snow": TEST[::-1], "labels": LABELS["test"]}.items():
        np.save(folder / f"{name}.npy", values)
    dataset = read(folder / "fog.npy")
    assert holds(dataset, train=False)
    assert dataset.name == "CIFAR-10-C fog"
    assert read(folder / "snow.npy").sha256 != dataset.sha256
    with pytest.raises(DataError, match=r"several sets of images; choose one with .*/fog\.npy"):
        read(folder)


@pytest.mark.parametrize("folder", [True, False])
def test_npy_pairs(tmp_path, folder):
    np.save(tmp_path / "x_train.npy", TRAIN)
    np.save(tmp_path / "y_train.npy", LABELS["train"])
    np.save(tmp_path / "x_test.npy", TEST)
    np.save(tmp_path / "y_test.npy", LABELS["test"])
    assert holds(read(tmp_path if folder else tmp_path / "x_test.npy"))


@pytest.mark.parametrize("pair", [False, True])
def test_torch_tensors(tmp_path, pair):
    images, labels = torch.from_numpy(TEST), torch.from_numpy(LABELS["test"])
    content = (images, labels) if pair else {"x_test": images, "y_test": labels, "note": "x"}
    torch.save(content, tmp_path / "set.pt")
    assert holds(read(tmp_path / "set.pt"), train=False)


def test_npy_file_that_was_named_is_read_and_no_other(tmp_path):
    """Beside x_test and y_test another file needs labels of its own, which x_test does not take."""
    np.save(tmp_path / "x_test.npy", TEST)
    np.save(tmp_path / "y_test.npy", LABELS["test"])
    np.save(tmp_path / "fog.npy", 255 - TEST)
    with pytest.raises(DataError, match=r"fog\.npy needs labels\.npy beside it"):
        read(tmp_path / "fog.npy")
    assert holds(read(tmp_path / "x_test.npy"), train=False)
    np.save(tmp_path / "labels.npy", 2 - LABELS["test"])
    fog = read(tmp_path / "fog.npy").test
    assert torch.equal(fog.images[:], 255 - torch.from_numpy(TEST).permute(0, 3, 1, 2))
    assert fog.labels.tolist() == (2 - LABELS["test"]).tolist()
    assert holds(read(tmp_path / "x_test.npy"), train=False)


def test_torch_file_that_runs_a_command_is_refused(tmp_path):
    class Evil:
        def __reduce__(self):
            return exec, (f"open({str(tmp_path / 'owned')!r}, 'w')",)

    torch.save({"x_test": Evil()}, tmp_path / "set.pt")
    with pytest.raises(RefusedDataError, match="not a file of plain tensors"):
        read(tmp_path / "set.pt")
    assert not (tmp_path / "owned").exists()


@pytest.mark.parametrize("names", [("0", "1", "2"), ("ape", "bee", "cat")])
def test_csv(tmp_path, names):
    write_csv(tmp_path, PARTS, names)
    dataset = read(tmp_path / "set.csv")
    assert holds(dataset)
    assert dataset.classes == names
    assert holds(read(tmp_path / "set.csv", stream=True))
    text = (tmp_path / "set.csv").read_text()
    swapped = text.replace(f",{names[0]},", ",x,").replace(f",{names[1]},", f",{names[0]},")
    (tmp_path / "set.csv").write_text(swapped.replace(",x,", f",{names[1]},"))
    if names[0] == "ape":
        assert read(tmp_path / "set.csv").sha256 != dataset.sha256


@pytest.mark.parametrize(("words", "test"), [("train,val,test", 2), ("train,valid,train", 1)])
def test_csv_with_validation_images_tests_on_the_test_images_alone(tmp_path, words, test):
    """As in folders: validation images are left out, unless they are the only ones to test on."""
    paths = [path for path, *_ in write_images(tmp_path, PARTS)]
    words = words.split(",")
    lines = "".join(f"{path},{i % 3},{words[i % 3]}\n" for i, path in enumerate(paths))
    (tmp_path / "set.csv").write_text(f"path,label,split\n{lines}")
    dataset = read(tmp_path / "set.csv")
    pixels = torch.from_numpy(np.concatenate([TRAIN, TEST])).permute(0, 3, 1, 2)
    assert torch.equal(dataset.test.images[:], pixels[test::3])
    assert torch.equal(dataset.train.images[:], pixels[[i for i in range(10) if i % 3 in (0, 2)
                                                        and words[i % 3] == "train"]])  # fmt: skip


def test_csv_of_numbers_written_as_floats_has_the_same_labels(tmp_path):
    """As pandas writes a column that has had a gap; as text, "10.0" stands before "2.0"."""
    paths = [path for path, *_ in write_images(tmp_path, PARTS)]
    numbers = [0, 2, 10, 3, 11, 1, 9, 2, 10, 0]
    lines = "".join(f"{path},{n}.0\n" for path, n in zip(paths, numbers, strict=True))
    (tmp_path / "set.csv").write_text(f"path,label\n{lines}")
    dataset = read(tmp_path / "set.csv")
    assert dataset.test.labels.tolist() == numbers
    assert dataset.classes == tuple(str(k) for k in range(12))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("path,label\ntest/0.png,0\ntest/1.png,\n", "a line without a label"),
        ("path,label\ntest/0.png,0\ntest/1.png,-1\n", "has the label -1; labels are whole"),
        ("path,label\ntest/0.png,0\ntest/1.png,0.5\n", r"has the label 0\.5; labels are whole"),
        ("a,b\n1,2\n", "must begin with a line that names the columns"),
        ("path,label\n", "must have lines with 2 values"),
        ("path,label\ntest/0.png\n", "must have lines with 2 values"),
        ("path,label\n../0.png,1\n", "not in its folder"),
        ("path,label\ntest/77.png,1\n", "which is not in"),
        ("path,label,split\ntest/0.png,1,other\n", "train or test is required"),
        ("path,label,split\ntest/0.png,1,train\n", "has no test images"),
        ('path,label\n"test/0.png,1\n', "not a CSV text file"),
    ],
)
def test_csv_of_another_kind_is_refused(tmp_path, text, message):
    list(write_images(tmp_path, PARTS))
    (tmp_path / "set.csv").write_text(text)
    with pytest.raises(DataError, match=message):
        read(tmp_path / "set.csv")


def test_parquet_of_the_hub(tmp_path):
    folder = write_parquet(tmp_path, PARTS, ["ape", "bee", "cat"])
    dataset = read(folder)
    assert holds(dataset)
    assert dataset.classes == ("ape", "bee", "cat")
    assert holds(read(folder, stream=True))


def test_one_parquet_file_holds_test_images(tmp_path):
    folder = write_parquet(tmp_path, {"test": PARTS["test"]})
    assert holds(read(folder / "data" / "test-00000-of-00001.parquet"), train=False)


def test_parquet_names_the_extra_when_pyarrow_is_missing(tmp_path, monkeypatch):
    (tmp_path / "set.parquet").write_bytes(b"")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(DataError, match=r'pip install "robustnorm\[parquet\]"'):
        read(tmp_path / "set.parquet")


@pytest.mark.parametrize("packed", [False, True])
def test_idx_files_of_mnist(tmp_path, packed):
    for start, pixels, part in (("train", TRAIN, "train"), ("t10k", TEST, "test")):
        for kind, values in (("images-idx3", pixels[..., 0]), ("labels-idx1", LABELS[part])):
            data = idx(values)
            name = f"{start}-{kind}-ubyte" + (".gz" if packed else "")
            (tmp_path / name).write_bytes(gzip.compress(data) if packed else data)
    dataset = read(tmp_path)
    assert holds(dataset, images=(TRAIN[..., :1], TEST[..., :1]))
    assert not dataset.augmentation.flip
    damaged = next(tmp_path.glob("t10k-images*"))
    damaged.write_bytes(damaged.read_bytes()[:-9])
    with pytest.raises(RefusedDataError, match="download it again"):
        read(tmp_path)


def test_every_format_is_recognized(tmp_path):
    for suffix in ("npz", "npy", "pt", "pth", "csv", "parquet", "tar", "zip", "tgz"):
        (tmp_path / f"a.{suffix}").touch()
        assert format_of(tmp_path / f"a.{suffix}") in FORMATS
    assert format_of(tmp_path) == "parquet"
    shutil.rmtree(tmp_path)
    tmp_path.mkdir()
    assert format_of(tmp_path) == "images"


def test_resize_of_arrays_is_refused(tmp_path):
    np.savez(tmp_path / "set.npz", images=TEST, labels=LABELS["test"])
    with pytest.raises(DataError, match="--resize is for encoded images"):
        read(tmp_path / "set.npz", resize=4)

"""Pictures from folders and from scikit-image, and messages about unusable ones."""

import pickle
import sys
import zlib

import numpy as np
import pytest
import torch
from PIL import Image

from robustnorm.applications.style.pictures import (
    HELD_OUT_STYLES,
    PHOTOGRAPHS,
    STYLES,
    Folder,
    part_of,
    read_folder,
    read_picture,
    textures,
)
from robustnorm.data.errors import DataError, RefusedDataError


def save(path, width=40, height=24, mode="RGB", seed=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(seed)
    shape = (height, width, 3) if mode == "RGB" else (height, width)
    Image.fromarray(random.integers(0, 256, shape, dtype=np.uint8)).save(path)
    return path


def test_folder_reads_pictures_in_order_at_one_size(tmp_path):
    save(tmp_path / "in" / "b.png", seed=1)
    save(tmp_path / "in" / "deeper" / "c.png", seed=2)
    save(tmp_path / "in" / "a.jpg", seed=0)
    (tmp_path / "in" / "notes.txt").write_text("no picture")
    found = read_folder(tmp_path / "in", 20, cache=tmp_path / "cache")
    assert [path.name for path in found.paths] == ["a.jpg", "b.png", "c.png"]
    assert all(found[i].shape == (3, 20, 20) and found[i].dtype == torch.uint8 for i in range(3))
    original = Image.open(tmp_path / "in" / "b.png")
    expected = np.asarray(original.resize((20, 20), Image.Resampling.BILINEAR))
    assert torch.equal(found[1], torch.from_numpy(expected.copy()).permute(2, 0, 1))


def test_folder_is_looked_through_once(tmp_path, monkeypatch):
    save(tmp_path / "in" / "a.png")
    first = read_folder(tmp_path / "in", 20, cache=tmp_path / "cache")
    monkeypatch.setattr(
        "robustnorm.applications.style.pictures._check", lambda *_: pytest.fail("read again")
    )
    assert read_folder(tmp_path / "in", 20, cache=tmp_path / "cache").sha256 == first.sha256


def test_changed_picture_changes_the_hash(tmp_path):
    save(tmp_path / "in" / "a.png", seed=0)
    first = read_folder(tmp_path / "in", 20, cache=tmp_path / "cache")
    save(tmp_path / "in" / "a.png", seed=1, width=41)
    assert read_folder(tmp_path / "in", 20, cache=tmp_path / "cache").sha256 != first.sha256


def test_grey_pictures_get_three_channels_and_one_sentence(tmp_path, caplog):
    save(tmp_path / "in" / "a.png", mode="L")
    save(tmp_path / "in" / "b.png")
    with caplog.at_level("INFO", "robustnorm"):
        found = read_folder(tmp_path / "in", 24, cache=tmp_path / "cache")
    assert "1 of 2 pictures are grey and get three equal channels" in caplog.text
    assert len(caplog.records) == 1
    assert torch.equal(found[0][0], found[0][2])


def test_corrupt_picture_is_named_before_anything_else(tmp_path):
    save(tmp_path / "in" / "a.png")
    whole = save(tmp_path / "in" / "b.png").read_bytes()
    (tmp_path / "in" / "b.png").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(RefusedDataError, match=r"b\.png is not a readable image .*; replace"):
        read_folder(tmp_path / "in", 20, cache=tmp_path / "cache")


def test_tiny_picture_is_named(tmp_path):
    save(tmp_path / "in" / "a.png", width=15)
    with pytest.raises(DataError, match=r"a\.png has 15x24 pixels; a picture needs 16 on each"):
        read_folder(tmp_path / "in", 20, cache=tmp_path / "cache")


def test_huge_picture_is_refused_before_it_is_decoded(tmp_path):
    path = tmp_path / "a.png"
    Image.new("1", (2**13, 2**12)).save(path)
    with pytest.raises(RefusedDataError, match="has 8192x4096 pixels, more than 16,777,216"):
        read_picture(path)


def test_picture_is_turned_as_its_camera_was_held(tmp_path):
    pixels = np.zeros((20, 30, 3), np.uint8)
    pixels[:, :15] = 255  # the left half is white
    exif = Image.Exif()
    exif[0x0112] = 6  # a viewer turns it by a quarter, clockwise
    Image.fromarray(pixels).save(tmp_path / "a.png", exif=exif)
    shown = np.asarray(read_picture(tmp_path / "a.png"))
    assert shown.shape == (30, 20, 3)
    assert shown[:15].min() == 255  # the upper half
    assert shown[15:].max() == 0


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_transparent_pixels_are_white(tmp_path, mode):
    image = Image.new("RGBA", (20, 20), (0, 0, 0, 0))
    image.paste((0, 0, 0, 255), (0, 0, 10, 20))
    image.convert(mode).save(tmp_path / "a.png")
    shown = np.asarray(read_picture(tmp_path / "a.png"))
    assert shown[:, :10].max() == 0
    assert shown[:, 10:].min() == 255


def test_rows_that_are_missing_are_refused(tmp_path):
    random = np.random.default_rng(0).integers(0, 256, (40, 40), dtype=np.uint8)
    Image.fromarray(random).save(tmp_path / "whole.png")
    data = (tmp_path / "whole.png").read_bytes()
    begin = data.index(b"IDAT")
    raw = zlib.compress(zlib.decompress(data[begin + 4 :])[: 41 * 20])  # half of the rows
    chunk = len(raw).to_bytes(4) + b"IDAT" + raw + zlib.crc32(b"IDAT" + raw).to_bytes(4)
    end = data[data.index(b"IEND") - 4 :]
    (tmp_path / "a.png").write_bytes(data[: begin - 4] + chunk + end)
    with pytest.raises(RefusedDataError, match="820 bytes of its pixels are missing"):
        read_picture(tmp_path / "a.png")


def test_text_is_no_picture(tmp_path):
    (tmp_path / "a.png").write_text("not a picture")
    with pytest.raises(RefusedDataError, match="not a readable image"):
        read_picture(tmp_path / "a.png")


@pytest.mark.parametrize(
    ("make", "message"), [(False, "is not a folder"), (True, "has no pictures")]
)
def test_folder_without_pictures_is_refused(tmp_path, make, message):
    if make:
        (tmp_path / "in").mkdir()
    with pytest.raises(DataError, match=message):
        read_folder(tmp_path / "in", 20, cache=tmp_path)


def test_parts_of_a_folder_share_no_picture(tmp_path):
    paths = [tmp_path / f"{i}.png" for i in range(25)]
    whole = Folder("made", paths, 20, "")
    held_out, rest = part_of(whole, held_out=True), part_of(whole, held_out=False)
    assert held_out.paths == [paths[0], paths[10], paths[20]]
    assert sorted(held_out.paths + rest.paths) == sorted(paths)


def test_one_picture_cannot_be_divided(tmp_path):
    with pytest.raises(DataError, match="it needs two"):
        part_of(Folder("made", [tmp_path / "a.png"], 20, ""), held_out=True)


def test_folder_travels_to_another_process(tmp_path):
    folder = Folder("made", [save(tmp_path / "a.png")], 20, "hash")
    folder[0]
    other = pickle.loads(pickle.dumps(folder))
    assert torch.equal(other[0], folder[0])
    assert other.sha256 == "hash"


def test_embedded_textures_are_seen_at_three_scales():
    found = textures(("brick", "gravel"), crop=8)
    assert [min(picture.shape[1:]) for picture in found.pictures] == [12, 20, 32] * 2
    assert found.name == "2 pictures of scikit-image x 3 scales"


def test_embedded_pictures_name_the_extra_that_they_need(monkeypatch):
    monkeypatch.setitem(sys.modules, "skimage", None)
    with pytest.raises(ImportError, match=r"robustnorm\[style\].*or choose folders"):
        textures(("brick",), crop=8)


def test_embedded_pictures_held_out_are_not_trained_on():
    assert not {*PHOTOGRAPHS, *STYLES} & {*HELD_OUT_STYLES}

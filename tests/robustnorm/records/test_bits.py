import base64
import tracemalloc
import zlib

import numpy as np
import pytest

from robustnorm.records.bits import (
    deflate,
    deflate_labels,
    inflate,
    inflate_labels,
    pack_bits,
    unpack_bits,
)


def text_of(data):
    return base64.b64encode(data).decode()


@pytest.mark.parametrize("n", [1, 7, 8, 9, 1000])
def test_packed_bits_round_trip(n):
    bits = np.random.default_rng(n).random(n) < 0.5
    assert np.array_equal(unpack_bits(pack_bits(bits), n), bits)


def test_eight_bits_are_a_byte_the_first_highest():
    assert pack_bits(np.array([1, 0, 0, 0, 0, 0, 1, 1, 1], bool)) == bytes([0b10000011, 0b10000000])


@pytest.mark.parametrize("share", [0, 0.02, 0.25, 0.5])
def test_deflated_bytes_round_trip_and_are_never_longer_than_base64(share):
    data = pack_bits(np.random.default_rng(0).random(10_000) < share)
    text = deflate(data)
    assert inflate(text, len(data)) == inflate(text_of(data), len(data)) == data
    assert len(text) <= len(text_of(data))
    if share <= 0.25:
        assert zlib.decompress(base64.b64decode(text)) == data
        assert len(text) < 0.9 * len(text_of(data))
    else:  # random bits cannot be compressed
        assert text == text_of(data)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        bytes(99),
        bytes(101),
        zlib.compress(bytes(99)),
        zlib.compress(bytes(101)),
        zlib.compress(bytes(100))[:-1],
        zlib.compress(bytes(100)) + b"x",
        zlib.compress(bytes(100))[:-1] + b"x",
    ],
)
def test_bytes_of_another_number_are_refused(data):
    assert inflate(deflate(bytes(100)), 100) == bytes(100)
    with pytest.raises(ValueError, match=r"100 bytes are required, got"):
        inflate(text_of(data), 100)


@pytest.mark.parametrize("classes", [2, 2**16, 2**16 + 1])
def test_labels_of_any_number_of_classes_round_trip(classes):
    names = range(classes)
    labels = [0, classes - 1, classes // 2]
    assert inflate_labels(deflate_labels(labels, names), 3, names) == labels


def test_text_that_is_not_base64_is_refused():
    with pytest.raises(ValueError, match="base64"):
        inflate("a-b=", 2)


def test_compressed_text_takes_no_more_memory_than_it_should():
    bomb = text_of(zlib.compress(bytes(200_000_000), 9))
    tracemalloc.start()
    with pytest.raises(ValueError, match="1000 bytes are required, got"):
        inflate(bomb, 1000)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < 3_000_000  # the text, and its decoded 0.2 MB

"""Results sorted by image; missing, double and foreign images are named."""

import random

import numpy as np
import pytest
from record_factory import make_record

from robustnorm.records.journal import Key, Part
from robustnorm.system.errors import RefusedFileError
from robustnorm.work.merge import (
    MergeError,
    Result,
    digest,
    merge,
    read_result,
    write_result,
)

KEY = Key("pgd-20", "final", "adv", "adv")
IDS = [*range(0, 40, 2), 41, 43]
CORRECT = np.arange(50) % 3 == 0
AGREES = np.arange(50) % 5 != 0


def result(ids, attack="pgd"):
    return Result(attack, "adv", list(ids), {KEY: Part(CORRECT[ids], AGREES[ids])})


@pytest.mark.parametrize("size", [1, 7, 10, 22])
def test_merge_sorts_by_image_id_whatever_the_parts(size):
    ids = random.Random(size).sample(IDS, len(IDS))
    parts = [result(ids[start : start + size]) for start in range(0, len(ids), size)]
    merged = merge(parts, IDS)
    assert np.array_equal(merged[KEY].correct, CORRECT[IDS])
    assert np.array_equal(merged[KEY].agrees, AGREES[IDS])


@pytest.mark.parametrize(
    ("parts", "fault"),
    [
        ([IDS[:9], IDS[10:]], r"fgsm on adv: .* 1 are missing: 18"),
        ([IDS[:10], IDS[9:]], r"fgsm on adv: .* 1 are there more than once: 18"),
        ([IDS, [7, 9]], r"fgsm on adv: .* 2 were not asked for: 7, 9"),
        ([IDS[:5]], r"17 are missing: .*, \.\.\."),
    ],
)
def test_merge_names_the_images_when_each_is_not_there_once(parts, fault):
    complete = result(IDS)
    with pytest.raises(MergeError, match=fault):
        merge([complete, *(result(ids, "fgsm") for ids in parts)], IDS)


def test_result_survives_its_file_in_the_same_bytes(tmp_path):
    path = tmp_path / "result.json"
    write_result(path, result(IDS))
    first, found = path.read_bytes(), read_result(path)
    assert found.image_ids == IDS
    assert found[:2] == ("pgd", "adv")
    assert np.array_equal(found.verdicts[KEY].correct, CORRECT[IDS])
    write_result(path, found)
    assert path.read_bytes() == first


@pytest.mark.parametrize("text", ["", "{}", '{"image_ids": 3}', "[1]"])
def test_result_is_refused_when_damaged(tmp_path, text):
    path = tmp_path / "result.json"
    path.write_text(text)
    with pytest.raises(RefusedFileError, match=r"result\.json is no result of a job"):
        read_result(path)


def test_result_is_missed_by_name(tmp_path):
    with pytest.raises(MergeError, match="there is no result"):
        read_result(tmp_path / "result.json")


def test_digest_follows_from_verdicts_alone():
    record = make_record()
    assert digest(record) == digest(make_record())
    record.verdicts[0].correct[0] ^= True
    assert digest(record) != digest(make_record())

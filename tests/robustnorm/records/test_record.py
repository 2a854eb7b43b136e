import json
from dataclasses import replace

import numpy as np
import pytest
from seals import unsealed

from robustnorm.records.bits import deflate, encode
from robustnorm.records.parts import Check, CurvePoint, Example
from robustnorm.records.record import (
    Record,
    RecordError,
    Verdict,
    fingerprint,
)
from robustnorm.system.errors import UsageError
from robustnorm.system.sealed import seal, unseal


def make_record(n=11, image_ids=None):
    bits = np.random.default_rng(0).random((4, n)) < 0.6
    return Record(
        name="digits",
        norm="auxbn",
        seed=3,
        adversarial=True,
        checkpoint={"tag": "best", "epoch": 2, "epochs": 3, "sha256": "ab"},
        config={"network": "resnet18", "width": 4, "precision": "fp32", "train_steps": 10},
        config_hash="cd",
        history=[],
        dataset={
            "name": "data",
            "sha256": "ef",
            "classes": ["a", "b", "c"],
            "train_images": 5,
            "test_images": max(20, n),
        },
        image_ids=list(range(n)) if image_ids is None else image_ids,
        labels=[i % 3 for i in range(n)],
        protocol={
            "name": "short",
            "threat_model": "linf",
            "epsilon": "8/255",
            "step_size": "2/255",
            "precision": "fp32",
            "search": "folded, fp32",
        },
        protocol_hash="01",
        verdicts=[
            Verdict("none", "final", "clean", "clean", bits[0]),
            Verdict("pgd-20", "final", "adv", "clean", bits[1]),
            Verdict("pgd-20", "any", "adv", "adv", bits[2]),
            Verdict("none", "final", "adv", "adv", bits[3]),
        ],
        checks=[Check("deterministic", "adv", "reliable", 0.0, "largest change of a logit", n)],
        curve=[CurvePoint("adv", "8/255", 3, n)],
        examples=[Example(3, "adv", 2, 0, "aW1hZ2U=", "aW1hZ2U=")],
        versions={"torch": "2.13.0"},
        device="CPU",
        wall_seconds=1.5,
    )


def test_verdicts_are_equal_if_all_they_say_is():
    verdict = Verdict("none", "final", "adv", "adv", np.array([True, False]))
    assert verdict == replace(verdict, correct=np.array([True, False]))
    assert verdict != replace(verdict, correct=np.array([True, True]))
    assert verdict != replace(verdict, correct=np.array([True]))
    assert verdict != replace(verdict, forward=1)
    assert verdict != "none"


@pytest.mark.parametrize("image_ids", [None, [3, 5, 8]])
def test_record_round_trips_through_a_file(tmp_path, image_ids):
    record = make_record(n=11 if image_ids is None else 3, image_ids=image_ids)
    record.save(tmp_path / "new" / "record.json")
    assert Record.load(tmp_path / "new" / "record.json") == record


def test_record_says_plainly_how_many_are_correct():
    record = make_record()
    counts = [entry["count"] for entry in json.loads(record.to_json())["verdicts"]]
    assert counts == [int(verdict.correct.sum()) for verdict in record.verdicts]


def test_record_finds_a_verdict():
    record = make_record()
    assert record.find("pgd-20", "any", "adv", "adv") is record.verdicts[2]
    assert record.branches == ("clean", "adv")
    assert record.n == 11
    assert record.verdicts[0].accuracy == record.verdicts[0].correct.sum() / 11


def test_record_names_the_verdict_that_it_lacks():
    with pytest.raises(RecordError, match=r"no verdict of attack pgd-10 \(final\) through adv"):
        make_record().find("pgd-10", "final", "adv", "adv")


def test_load_names_a_missing_file(tmp_path):
    with pytest.raises(UsageError, match=r"no result record .*none\.json"):
        Record.load(tmp_path / "none.json")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda text: text[: len(text) // 2], "it is damaged"),
        (lambda text: text.replace('"schema": 2', '"schema": 9'), "its schema is not 2"),
        (lambda text: text.replace('"image_ids": 11', '"image_ids": 30'), "60 bytes are required"),
        (lambda text: text.replace('"correct": "', '"correct": "AAAA'), "2 bytes are required"),
        (lambda text: text.replace('"seed": 3', '"sead": 3'), "it is damaged"),
        (lambda text: "[]", "it is damaged"),
        (
            lambda text: text.replace('"count": ', '"count": 1'),
            "a verdict's bits do not match its count",
        ),
    ],
)
def test_load_refuses_a_damaged_record(tmp_path, damage, message):
    path = tmp_path / "record.json"
    path.write_text(damage(unsealed(make_record().to_json())))
    with pytest.raises(RecordError, match=rf"record\.json is not a result record: .*{message}"):
        Record.load(path)


def test_record_without_a_hash_opens_and_says_so(tmp_path):
    path = tmp_path / "record.json"
    make_record().save(path)
    assert Record.load(path).sealed
    path.write_text(unsealed(path.read_text()))
    assert not Record.load(path).sealed
    assert Record.load(path).find("none", "final", "clean", "clean")


def test_no_single_bit_of_a_record_can_flip_unseen(tmp_path):
    path, other = tmp_path / "record.json", tmp_path / "flipped.json"
    make_record().save(path)
    data, expected = path.read_bytes(), Record.load(path).to_json()
    generator = np.random.default_rng(0)
    for bit in generator.choice(8 * len(data), 400, replace=False):
        flipped = bytearray(data)
        flipped[bit // 8] ^= 1 << bit % 8
        other.write_bytes(flipped)
        try:
            assert Record.load(other).to_json() == expected  # a space became another one
        except RecordError:
            continue


def test_fingerprint_depends_on_values_not_on_order():
    assert fingerprint({"a": 1, "b": [2]}) == fingerprint({"b": [2], "a": 1})
    assert fingerprint({"a": 1}) != fingerprint({"a": 2})


def test_worst_case_is_each_image_s_over_all_that_one_branch_scores():
    record = make_record()
    first, second, third, fourth = (verdict.correct for verdict in record.verdicts)
    assert np.array_equal(record.worst_case("clean"), first & second)
    assert np.array_equal(record.worst_case("adv"), third & fourth)
    assert 0 < (first & second).sum() < min(first.sum(), second.sum())


def test_worst_case_counts_images_of_the_branch_s_own_ball_only():
    """Branches for Linf 4/255, Linf 8/255 and L2: each withstands other images."""
    branches = {
        "small": {"threat_model": "linf", "epsilon": "4/255", "step_size": "1/255"},
        "large": {"threat_model": "linf", "epsilon": "8/255", "step_size": "2/255"},
        "l2": {"threat_model": "l2", "epsilon": "1/2", "step_size": "1/8"},
    }
    record = make_record(n=12)
    names = ("clean", *branches)
    verdicts = [Verdict("none", "final", name, name, np.arange(12) != 0) for name in names]
    verdicts += [
        Verdict("pgd-20", "final", attacker, scorer, np.arange(12) != 1 + row)
        for scorer in names
        for row, attacker in enumerate(names)
    ]
    protocol = record.protocol | {"epsilon": "4/255", "branches": branches}
    record = replace(record, verdicts=verdicts, protocol=protocol)
    # Image 0 falls without an attack, 1 to clean and 2 to small (4/255), 3 to large, 4 to l2.
    broken = {name: [*np.flatnonzero(~record.worst_case(name))] for name in names}
    assert broken == {"clean": [0, 1, 2], "small": [0, 1, 2], "large": [0, 1, 2, 3], "l2": [0, 4]}


def test_record_from_before_compression_is_the_same():
    record = make_record(n=3000)
    content = json.loads(unsealed(record.to_json()))
    compressed = content["labels"]
    content["labels"] = encode(np.asarray(record.labels, "<u2").tobytes())
    assert len(content["labels"]) > 100 * len(compressed)
    for entry, verdict in zip(content["verdicts"], record.verdicts, strict=True):
        entry["correct"] = encode(np.packbits(verdict.correct).tobytes())
    assert Record.from_json(json.dumps(content)).to_json() == record.to_json()


def test_record_cannot_claim_more_images_than_its_size_allows():
    record = make_record(n=3000)
    content = json.loads(unsealed(record.to_json()))
    Record.from_json(json.dumps(content))
    content["image_ids"] = 10**7
    content["labels"] = deflate(bytes(2 * 10**7))
    with pytest.raises(RecordError, match=r"bytes cannot hold 10,000,000 images"):
        Record.from_json(json.dumps(content))


def test_record_from_before_passes_were_counted_has_none():
    content = json.loads(unsealed(make_record().to_json()))
    for verdict in content["verdicts"]:
        del verdict["forward"], verdict["backward"]
    assert {v.forward + v.backward for v in Record.from_json(json.dumps(content)).verdicts} == {0}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c["protocol"].update(epsilon="1e-300"), "'protocol.epsilon' is out of range"),
        (lambda c: c["checkpoint"].update(epoch=True), "'checkpoint.epoch' is out of range"),
        (lambda c: c["checks"][0].update(verdict="fine"), "a check cannot be 'fine'"),
        (lambda c: c["curve"][0].update(correct=99), "or more correct ones than images"),
        (lambda c: c["examples"][0].update(image_id=12), "an example that is not among its images"),
        (lambda c: c["dataset"].update(classes=["a", "b"]), "a label outside its 2 classes"),
        (lambda c: c["dataset"].update(test_images=5), "different ones of 5"),
        (lambda c: c.update(more=1), "'more' is unknown"),
        (lambda c: c["verdicts"].clear(), "no verdicts on clean images"),
    ],
)
def test_record_of_values_that_none_has_is_refused_though_its_hash_is_right(change, message):
    content, _ = unseal(json.loads(make_record().to_json()))
    change(content)
    with pytest.raises(RecordError, match=message):
        Record.from_json(json.dumps(seal(content)))

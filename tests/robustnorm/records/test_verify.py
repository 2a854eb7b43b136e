"""Kept images, transfer and the re-check of a record, on a network that learned nothing."""

import copy
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
import safetensors.numpy
import torch
from tiny_network import tiny
from torch.backends import cudnn

from robustnorm import bind, evaluate
from robustnorm.data.dataset import Augmentation, Dataset, Split
from robustnorm.evaluation.transfer import transfer
from robustnorm.records.images import hashes, read_chunk
from robustnorm.records.journal import Key
from robustnorm.records.record import Record, RecordError
from robustnorm.records.verify import verify
from robustnorm.settings.config import Config
from robustnorm.settings.groups import BranchAttack

N, IDS = 130, torch.arange(140, 10, -1)  # two files; not from 0, not ascending


def make_model(seed=0):
    torch.manual_seed(seed)
    network = tiny("auxbn", num_classes=4, in_channels=1).eval()
    for layer in network.modules():
        if hasattr(layer, "branches"):
            layer.running_mean.normal_(std=0.3)
            layer.running_var.uniform_(0.5, 1.5)
    with torch.no_grad():  # every class is predicted, near to others
        network[-1].bias -= bind(network, "adv")(make_images().float() / 255).mean(0)
    return network


def make_images():
    generator = torch.Generator().manual_seed(1)
    return torch.randint(0, 256, (150, 1, 4, 4), generator=generator, dtype=torch.uint8)


def make_dataset():
    with torch.no_grad():
        labels = bind(make_model(), "adv")(make_images().float() / 255).argmax(1)
    split = Split(make_images(), labels)
    return Dataset("test", ("a", "b", "c", "d"), split, split, Augmentation(), "data")


def make_record(folder, threat_model="linf", branches=None, **options):
    test = make_dataset().test
    settings = {"epsilon": 0.125, "step_size": 0.0625, "threat_model": threat_model}
    verdicts = evaluate(
        make_model(),
        test.images[IDS],
        test.labels[IDS],
        image_ids=IDS,
        steps=(1, 3),
        keep=folder,
        branch_attacks=branches,
        **settings,
        **options,
    )
    return Record(
        name="test", norm="auxbn", seed=0, adversarial=True, config={}, config_hash="",
        checkpoint={"tag": "best", "sha256": "weights"}, history=[], dataset={"sha256": "data"},
        image_ids=IDS.tolist(), labels=test.labels[IDS].tolist(),
        protocol={"epsilon": "1/8", "threat_model": threat_model}
        | ({"branches": Config(branches=branches).to_dict()["branches"]} if branches else {}),
        protocol_hash="",
        verdicts=verdicts, checks=[], curve=[], examples=[], versions={}, device="",
        wall_seconds=0.0, images={"folder": folder.name, "files": hashes(folder)},
    )  # fmt: skip


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    """A record of one network, its images beside it; tests copy what they damage."""
    folder = tmp_path_factory.mktemp("kept") / "x.images"
    return make_record(folder, serving=True, attacks=["pgd-2x2-margin"]), folder


def check(record, folder, *, sha256="weights", dataset=None, model=None):
    found = verify(record, model or make_model(), sha256, dataset or make_dataset(), folder)
    return {finding.subject: finding for finding in found}


def failed(findings):
    return {subject: f.failures for subject, f in findings.items() if f.failed}


def test_good_record_holds_and_everything_was_looked_at(kept):
    record, folder = kept
    findings = check(record, folder)
    assert failed(findings) == {}
    answers = 4
    keys = answers * (2 * 2 + 1)  # final and any after 1 and 3 steps, and the named attack
    counts = {subject: finding.checked for subject, finding in findings.items()}
    assert counts == {
        "checkpoint and data": 2,
        "labels": N,
        "predictions on clean images": answers * N,
        "files of images": 2,
        "every image was kept": keys * N,
        "images in the ball": keys * N,
        "images in [0, 1]": keys * N,
        # The last iterates are scored by each other answer, too.
        "predictions on adversarial images": (keys + answers * (answers - 1)) * N,
    }
    broken = record.find("pgd-3", "any", "adv", "adv").correct
    assert 0 < broken.sum() < N


@pytest.mark.parametrize("constant", [5e5, 1e9])
def test_claims_do_not_hide_behind_a_constant_that_swallows_the_differences(kept, constant):
    record, folder = kept
    claimed = [replace(v, correct=np.ones(N, bool)) for v in record.verdicts]
    model = make_model()
    with torch.no_grad():
        model[-1].bias += constant  # the largest logit then dwarfs every difference
    found = failed(check(replace(record, verdicts=claimed), folder, model=model))
    assert "predictions on adversarial images" in found


def test_good_l2_record_holds(tmp_path):
    assert failed(check(make_record(tmp_path / "x.images", "l2"), tmp_path / "x.images")) == {}


def test_each_branch_is_held_to_its_own_ball(tmp_path):
    own = {"adv": BranchAttack("l2", Fraction(1, 2), Fraction(1, 4))}
    folder = tmp_path / "x.images"
    record = make_record(folder, branches=own)
    assert failed(check(record, folder)) == {}
    smaller = {"adv": {"threat_model": "l2", "epsilon": "2/5", "step_size": "1/4"}}
    told = replace(record, protocol=record.protocol | {"branches": smaller})
    (failures,) = failed(check(told, folder)).values()
    assert all(failure.endswith("on adv") for failure in failures)
    in_the_first = replace(record, protocol=record.protocol | {"branches": {}})
    assert list(failed(check(in_the_first, folder))) == ["images in the ball"]


def changed(record, folder, target, change):
    """Returns the record and a copy of its images in which one array was changed and rehashed."""
    target.mkdir()
    for name in record.images["files"]:
        arrays = safetensors.numpy.load((folder / name).read_bytes())
        if name.startswith("00000"):
            arrays = {key: array.copy() for key, array in arrays.items()}
            change(arrays)
        (target / name).write_bytes(safetensors.numpy.save(arrays))
    return replace(record, images={"folder": target.name, "files": hashes(target)}), target


KEY = '["pgd-3", "final", "adv", "adv"]'


def move(arrays):
    value = arrays[KEY][5, 0, 1, 2]
    arrays[KEY][5, 0, 1, 2] = value - 0.3 if value > 0.5 else value + 0.3


def darken(arrays):
    row = int(arrays[KEY][:, 0, 0, 0].argmin())
    assert arrays[KEY][row, 0, 0, 0] <= 0.05
    arrays[KEY][row, 0, 0, 0] = -0.0001  # in the ball, not in [0, 1]


def not_a_number(arrays):
    arrays[KEY][5, 0, 0, 0] = np.nan


@pytest.mark.parametrize(
    ("change", "subject"),
    [
        (move, "images in the ball"),
        (darken, "images in [0, 1]"),
        (not_a_number, "images in the ball"),
        (not_a_number, "images in [0, 1]"),
        (lambda arrays: arrays.pop(KEY), "every image was kept"),
        (lambda arrays: arrays.update(image_ids=arrays["image_ids"] + 500), "files of images"),
        (lambda arrays: arrays.update({KEY: arrays[KEY][:, :, :2]}), "files of images"),
    ],
)
def test_changed_image_is_found_though_its_file_is_hashed_again(kept, tmp_path, change, subject):
    findings = check(*changed(*kept, tmp_path / "y.images", change))
    assert findings[subject].failed
    if change in (move, darken):
        assert findings[subject].failed == 1
        assert "pgd-3 (final) on adv" in findings[subject].failures[0]


@pytest.mark.parametrize(
    ("attack", "rule", "source", "scorer", "subject"),
    [
        ("none", "final", "clean", "clean", "predictions on clean images"),
        ("pgd-3", "any", "adv", "adv", "predictions on adversarial images"),
        ("pgd-3", "final", "adv", "mean logits", "predictions on adversarial images"),
        ("pgd-2x2-margin", "final", "clean", "clean", "predictions on adversarial images"),
    ],
)
def test_flipped_verdict_is_found(kept, attack, rule, source, scorer, subject):
    record, folder = copy.deepcopy(kept[0]), kept[1]
    record.find(attack, rule, source, scorer).correct[17] ^= True
    found = failed(check(record, folder))
    assert list(found) == [subject]
    (failure,) = found[subject]
    assert f"image {IDS[17]}, " in failure
    assert failure.endswith(scorer)


def test_predictions_are_repeated_in_the_precision_of_the_verdicts(kept):
    """With TF32, which torch allows in convolutions, those near a boundary would differ."""
    model, seen = make_model(), set()
    model.register_forward_hook(lambda *_: seen.add(cudnn.allow_tf32))
    assert cudnn.allow_tf32
    verify(kept[0], model, "weights", make_dataset(), kept[1])
    assert seen == {False}


def test_flipped_label_is_found(kept):
    record, folder = copy.deepcopy(kept[0]), kept[1]
    record.labels[3] = (record.labels[3] + 1) % 4
    assert failed(check(record, folder)) == {"labels": [f"image {IDS[3]}, label"]}


def test_other_checkpoint_and_other_data_are_found(kept):
    subject = "checkpoint and data"
    assert failed(check(*kept, sha256="others")) == {subject: ["it is another checkpoint"]}
    dataset = replace(make_dataset(), sha256="others")
    assert failed(check(*kept, dataset=dataset)) == {subject: ["these are other data"]}


def test_other_network_under_the_same_hash_is_found(kept):
    found = failed(check(*kept, model=make_model(seed=1)))
    assert set(found) == {"predictions on clean images", "predictions on adversarial images"}


@pytest.mark.parametrize("damage", ["bit", "missing"])
def test_damaged_or_missing_file_is_found(kept, tmp_path, damage):
    record, folder = changed(*kept, tmp_path / "y.images", lambda arrays: None)
    file = folder / "00001.safetensors"
    if damage == "bit":
        data = bytearray(file.read_bytes())
        data[-1] ^= 1
        file.write_bytes(data)
    else:
        file.unlink()
    found = failed(check(record, folder))
    assert set(found) == {"files of images", "every image was kept"}
    assert "00001.safetensors" in found["files of images"][0]


def test_image_behind_rule_any_is_one_that_breaks_where_there_is_one(kept):
    record, folder = kept
    for branch in ("clean", "adv"):
        key = Key("pgd-3", "any", branch, branch)
        correct = record.find(*key).correct
        for name, sha256 in record.images["files"].items():
            chunk = read_chunk(folder / name, sha256)
            rows = [IDS.tolist().index(i) for i in chunk.image_ids]
            labels = make_dataset().test.labels[torch.from_numpy(chunk.image_ids)]
            with torch.no_grad():
                logits = bind(make_model(), branch)(torch.from_numpy(chunk.images[key]))
            assert np.array_equal((logits.argmax(1) == labels).numpy(), correct[rows])


def test_interrupted_evaluation_keeps_the_same_images(kept, tmp_path, monkeypatch):
    from robustnorm.evaluation import evaluate as module

    record, _ = kept
    options = {"serving": True, "attacks": ["pgd-2x2-margin"]}
    attack_chunk, calls = module.attack_chunk, []

    def interrupted(*arguments, **passes):
        calls.append(1)
        if len(calls) == 3:  # the first part has two attacks
            raise KeyboardInterrupt
        return attack_chunk(*arguments, **passes)

    monkeypatch.setattr(module, "attack_chunk", interrupted)
    journal = {"journal": tmp_path / "x.journal", "fingerprint": "a"}
    with pytest.raises(KeyboardInterrupt):
        make_record(tmp_path / "x.images", **options, **journal)
    resumed = make_record(tmp_path / "x.images", **options, **journal)
    assert resumed.images == record.images
    assert len(calls) == 5  # the second part anew, the first as it was kept


def test_transfer_scores_the_other_network_s_final_images(kept):
    record, folder = kept
    other, test = make_model(seed=1), make_dataset().test
    verdicts = transfer(
        other,
        test.labels[IDS],
        image_ids=IDS,
        source=record,
        source_images=folder,
        run="auxbn-seed0",
        attack="pgd-3",
        serving=True,
    )
    answers = ("clean", "adv", "mean logits", "more confident branch")
    assert [(v.attack, v.rule, v.attack_branch, v.score_branch) for v in verdicts] == [
        ("transfer:auxbn-seed0", "final", source, answer)
        for source in ("clean", "adv")
        for answer in answers
    ]
    images = {}
    for name, sha256 in record.images["files"].items():
        chunk = read_chunk(folder / name, sha256)
        final = chunk.images[Key("pgd-3", "final", "adv", "adv")]
        images |= zip(chunk.image_ids, final, strict=True)
    together = torch.from_numpy(np.stack([images[i] for i in IDS.tolist()]))
    with torch.no_grad():
        expected = bind(other, "clean")(together).argmax(1) == test.labels[IDS]
    (found,) = [v for v in verdicts if (v.attack_branch, v.score_branch) == ("adv", "clean")]
    assert np.array_equal(found.correct, expected.numpy())
    assert 0 < found.correct.sum() < N


def test_transfer_refuses_images_of_another_evaluation(kept):
    record, folder = kept
    ids = torch.tensor([140, 3])
    options = {"source": record, "source_images": folder, "run": "x", "attack": "pgd-3"}
    with pytest.raises(RecordError, match="lacks 1 of 2 test images"):
        transfer(make_model(), torch.zeros(2, dtype=torch.int64), image_ids=ids, **options)

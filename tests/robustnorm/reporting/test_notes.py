"""Notes below the tables: what was measured, how, and what differs from the paper."""

from dataclasses import replace

import pytest
from record_factory import make_record

from robustnorm.reporting.tables import tables


def test_notes_say_which_branches_were_attacked_themselves():
    record = make_record("auxbn")
    assert not any("no copy has" in note for note in tables([record])[0].notes)
    verdicts = [
        replace(v, searched="network") if v.attack_branch == "adv" else v for v in record.verdicts
    ]
    (note,) = (
        note
        for note in tables([make_record("auxbn", verdicts=verdicts)])[0].notes
        if "no copy has" in note
    )
    assert note.endswith(
        "no copy has the network's logits and gradients, so the network itself was attacked."
    )


@pytest.mark.parametrize(("threat_model", "named"), [("linf", False), ("l2", True)])
def test_notes_say_that_the_papers_threat_model_is_another(threat_model, named):
    protocol = make_record().protocol | {"threat_model": threat_model}
    notes = tables([make_record("auxbn", protocol=protocol)])[0].notes
    (note,) = (note for note in notes if note.startswith("Not the paper's experiment: "))
    assert ("threat model L2 (paper: Linf)" in note) == named


@pytest.mark.parametrize(
    ("seeds", "said"),
    [((0, 0), "for this one seed."), ((0, 2), "for one seed each.")],
)
def test_notes_say_whether_models_have_one_seed(seeds, said):
    records = [make_record(norm, seed) for norm, seed in zip(("bn", "auxbn"), seeds, strict=True)]
    assert tables(records)[0].notes[0].endswith(said)


def test_notes_say_which_branches_have_no_gradient():
    record = make_record("auxbn")
    verdicts = [
        replace(v, searched="nothing") if v.attack_branch == "adv" else v for v in record.verdicts
    ]
    notes = tables([make_record("auxbn", verdicts=verdicts)])[0].notes
    (note,) = (note for note in notes if "The logits of adv have no gradient" in note)
    assert "PGD leaves them at their random starts and does not measure robustness" in note


def test_notes_say_what_was_measured_and_how():
    notes = " ".join(tables([make_record("bn")])[1].notes)
    for phrase in (
        "n = 200 of 1,000 test images of a_b",
        "3 epochs (shortened: the paper trains 200)",
        "Checkpoint 'best' of epoch 2.",
        "50 images, resnet18 of width 4",
        "seed 0",
        "Linf, epsilon 8/255, step 2/255, uniform random start",
        "(folded, bf16), every verdict from the network itself in fp32; the copy disagreed "
        "on 3 of 1,000 verdicts.",
        "data a_b (paper: CIFAR-10)",
        "is one of different experiments",
    ):
        assert phrase in notes


def test_notes_of_the_paper_s_experiment_claim_no_difference():
    record = make_record(
        "bn",
        checkpoint={"tag": "last", "epoch": 200, "epochs": 200, "sha256": "ab"},
        config={"width": 64, "network": "resnet18", "precision": "fp32", "train_steps": 10},
        dataset={"name": "CIFAR-10", "sha256": "ef", "train_images": 45000, "test_images": 10000},
    )
    notes = " ".join(tables([record])[0].notes)
    assert "shortened" not in notes
    assert "different experiments" not in notes


def test_notes_name_the_epochs_of_each_model_where_they_differ():
    other = {"tag": "best", "epoch": 4, "epochs": 5, "sha256": "ab"}
    notes = " ".join(tables([make_record("bn"), make_record("auxbn", checkpoint=other)])[0].notes)
    assert "BN: 3 epochs (shortened" in notes
    assert "AuxBN: 5 epochs (shortened" in notes
    assert "Checkpoint BN: 'best' of epoch 2, AuxBN: 'best' of epoch 4." in notes

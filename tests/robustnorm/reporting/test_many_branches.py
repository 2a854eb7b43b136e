"""Tables and figures of branches for several threat models, and of runs from elsewhere."""

import itertools
import json
from dataclasses import replace

import numpy as np
import pytest
from record_factory import N, bits, make_full_record, make_record

from robustnorm.evaluation.statistics import wilson
from robustnorm.records.record import SINGLE, Verdict
from robustnorm.reporting import drawing, figures
from robustnorm.reporting.comparisons import paired_tests
from robustnorm.reporting.model_records import group
from robustnorm.reporting.summary import summary
from robustnorm.reporting.tables import tables


def test_rows_of_other_balls_are_not_compared():
    """AuxBN's branches l2 and linf leave 20 and 120 images, BN in linf 120 others."""
    branches = {
        "linf": {"threat_model": "linf", "epsilon": "8/255", "step_size": "2/255"},
        "l2": {"threat_model": "l2", "epsilon": "1/2", "step_size": "1/8"},
    }
    protocol = make_record().protocol | {"branches": branches}
    counts = {"clean": 10, "linf": 120, "l2": 118}
    verdicts = [
        Verdict(attack, rule, name, name, bits(count + 40 * (attack == "none")))
        for name, count in counts.items()
        for attack in ("none", "pgd-10", "pgd-20")
        for rule in (("final",) if attack == "none" else ("final", "any"))
    ]
    verdicts += [
        Verdict("pgd-20", "final", one, other, bits(100))
        for one in counts
        for other in counts
        if one != other
    ]
    records = [
        make_record("bn", sa=160, ra=120, protocol=protocol),
        make_record("auxbn", verdicts=verdicts, protocol=protocol),
    ]
    _, table4, _ = tables(records)
    marks = {row[:2]: row[4] for row in table4.rows if row[2] is not None}
    models = ("BN", "AuxBN (linf)", "AuxBN (l2)")
    assert [marks["SA", model] for model in models] == ["a", "a", "a"]
    assert [marks["RA, PGD-20", model] for model in models] == ["a", "a", "b"]
    assert table4.notes[-1] == (
        "Rows attacked in different threat models or radii are not compared."
    )
    pairs = [
        row[:3] for row in paired_tests(group(records)).rows if row[0].startswith("RA, PGD-20")
    ]
    assert pairs == [
        ("RA, PGD-20, adversarial branch", "BN", "AuxBN (linf)"),
        ("RA, PGD-20, between branches", "AuxBN (clean)", "AuxBN (linf)"),
    ]


def three_branches(norm, seed, rng):
    """A record with branches linf and l2 besides "clean", on random images each."""
    names = ("clean", "linf", "l2") if norm in ("auxbn", "saauxbn") else (SINGLE,)
    verdicts = [
        Verdict("none" if i == 0 else f"pgd-{10 * i}", rule, one, other,
                rng.random(N) < 0.4 + 0.1 * names.index(one) + 0.1 * (norm == "saauxbn"))
        for one in names
        for other in names
        for i, rule in ((0, "final"), (1, "final"), (1, "any"), (2, "final"), (2, "any"))
        if one == other or (i, rule) == (2, "final")
    ]  # fmt: skip
    l2 = {"threat_model": "l2", "epsilon": "1/2", "step_size": "1/8"}
    protocol = make_record().protocol | {"branches": {"l2": l2}}
    return make_record(norm, seed, verdicts=verdicts, protocol=protocol)


@pytest.mark.parametrize("seeds", [1, 3])
@pytest.mark.parametrize("draw", range(4))
def test_paired_tests_say_what_the_letters_of_all_branches_say(draw, seeds):
    """Before, those of Table 4 left out all adversarial branches but the first."""
    rng = np.random.default_rng(draw)
    norms = ("bn", "auxbn", "saauxbn")
    records = [three_branches(norm, seed, rng) for norm in norms for seed in range(seeds)]
    table3, table4, _ = tables(records)
    paired = paired_tests(group(records)).rows
    for table, kind in ((table3, "clean"), (table4, "adversarial")):
        for evaluation in {row[0] for row in table.rows} - {"RA, PGD-10"}:
            marks = {r[1]: set(r[4]) for r in table.rows if r[0] == evaluation and r[4]}
            alike = [
                {one, other} for one, other in itertools.combinations(marks, 2)
                if marks[one] & marks[other]
            ]  # fmt: skip
            found = [r for r in paired if r[0] == f"{evaluation}, {kind} branch"]
            assert [{*r[1:3]} for r in found if r[-1] == "no"] == alike
            pairs = {"clean": 3, "SA": 10, "RA, PGD-20": 3 + 1}
            assert len(found) == pairs["clean" if kind == "clean" else evaluation]


def test_each_ball_of_a_network_has_a_sentence():
    records = [three_branches("saauxbn", 0, np.random.default_rng(0))]
    said = summary(group(records))
    for branch, ball in (("linf", "Linf, epsilon 8/255"), ("l2", "L2, epsilon 1/2")):
        assert f"SaAuxBN ({branch}) classifies " in said
        assert f"correctly under PGD-20 ({ball})." in said


def test_transferred_images_have_a_table_and_are_named_in_the_notes():
    record = make_record("auxbn", ra=80)
    for branch, count in (("clean", 50), ("adv", 60)):
        record.verdicts.append(Verdict("transfer:bn-seed0", "final", SINGLE, branch, bits(count)))
    record.verdicts.append(Verdict("worst", "final", "adv", "adv", bits(70)))
    made = {table.name: table for table in tables([record])}
    assert made["transfer"].rows == [
        ("AuxBN", "0", "clean", "bn-seed0", "-", 0.25, wilson(50, N)),
        ("AuxBN", "0", "adv", "bn-seed0", "-", 0.3, wilson(60, N)),
    ]
    (note,) = (note for note in made["table4"].notes if note.startswith("Worst case"))
    assert "every iterate of PGD, images made against other runs, and the attack worst" in note
    assert "transfer" not in {table.name for table in tables([make_record("bn")])}


def test_training_shows_the_first_adversarial_branch_whatever_its_name():
    record = make_full_record("auxbn")
    verdicts = [
        replace(
            v, **{k: getattr(v, k).replace("adv", "l2") for k in ("attack_branch", "score_branch")}
        )
        for v in record.verdicts
    ]
    history = json.loads(json.dumps(record.history).replace('"adv":', '"l2":'))
    models = group([replace(record, verdicts=verdicts, history=history)])
    figure = figures.training_curves(models, drawing.looks(models))
    assert [len(axes.lines) > 0 for axes in figure.axes] == [True] * 6


def test_imported_weights_are_no_seed_of_a_run_and_not_the_papers():
    """90 % of a run and 60 % of weights from elsewhere are not 75 % of BN over two seeds."""
    file = {"imported": {"file": "wrn.pt", "sha256": "12", "layout": "plain"}}
    theirs = make_record("bn", sa=120, seed=1)
    theirs = replace(theirs, checkpoint=theirs.checkpoint | file)
    table3, table4, *_ = tables([make_record("bn", sa=180), theirs])
    ours = {row[1]: row[2:3] + row[5:7] for row in table3.rows if row[2] is not None}
    assert ours == {"BN": (0.9, "84.84", "+5.16"), "BN, wrn.pt": (0.6, None, None)}
    assert "SD over seeds" not in table4.columns
    also = replace(theirs, norm="auxbn", seed=0)
    shown = {row[1]: row[2] for row in tables([make_record("bn"), also])[0].rows}
    assert shown["AuxBN"] is None  # the paper's, not trained here
    assert shown["AuxBN, wrn.pt"] == 0.6
    notes = tables([make_record("bn"), also])[0].notes
    assert any(note.startswith("AuxBN is not trained yet") for note in notes)
    alone = [theirs, replace(theirs, seed=2)]  # one file's name: seeds of one training
    assert [row[1] for row in tables(alone)[0].rows] == ["BN"]

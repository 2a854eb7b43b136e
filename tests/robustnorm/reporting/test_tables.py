"""Tables from records whose counts are known."""

import numpy as np
import pytest
from record_factory import RULE_VERDICTS, N, bits, make_record, serving_record

from robustnorm.evaluation.statistics import wilson
from robustnorm.records.record import SINGLE, RecordError, Verdict
from robustnorm.reporting.paper import PAPER
from robustnorm.reporting.render import to_csv, to_text
from robustnorm.reporting.tables import tables


def find(table, evaluation, model):
    (row,) = [row for row in table.rows if row[:2] == (evaluation, model)]
    return dict(zip(table.columns, row, strict=True))


def test_table3_reads_the_clean_branch():
    table3, _, _ = tables([make_record("saauxbn", sa=180)])
    row = find(table3, "SA", "SaAuxBN (clean)")
    assert row["Ours %"] == 0.9
    assert row["95 % interval"] == wilson(180, N)
    assert (row["Paper %"], row["Difference"]) == ("94.62", "-4.62")


def test_table4_reads_the_adversarial_branch():
    _, table4, _ = tables([make_record("saauxbn", sa=180, ra=80)])
    ours = {
        evaluation: find(table4, evaluation, "SaAuxBN (adv)")["Ours %"]
        for evaluation in ("SA", "RA, PGD-10", "RA, PGD-20")
    }
    assert ours == {"SA": 0.85, "RA, PGD-10": 0.425, "RA, PGD-20": 0.4}
    assert find(table4, "RA, PGD-20", "SaAuxBN (adv)")["Any %"] == 0.39


def test_table4_prints_the_margin_beside_robust_accuracy():
    records = [
        make_record("saauxbn", seed=seed, margins={"clean": 9.0, "adv": margin})
        for seed, margin in enumerate((3.5, 4.5))
    ]
    table3, table4, _ = tables([*records, make_record("bn")])
    assert find(table4, "RA, PGD-20", "SaAuxBN (adv)")["Margin"] == "4.00"
    assert find(table4, "SA", "SaAuxBN (adv)")["Margin"] is None
    assert find(table4, "RA, PGD-20", "BN")["Margin"] is None  # a record that holds none
    assert "Margin" not in table3.columns
    assert any(note.startswith("Margin: median") for note in table4.notes)
    assert not any(note.startswith("Margin: median") for note in table3.notes)


def test_network_without_branches_stands_in_both_tables_with_the_same_sa():
    table3, table4, _ = tables([make_record("bn", sa=150)])
    assert find(table3, "SA", "BN")["Ours %"] == find(table4, "SA", "BN")["Ours %"] == 0.75


def test_paper_norms_stand_in_the_paper_s_order_with_its_numbers():
    table3, table4, _ = tables([make_record("saauxbn"), make_record("sabn"), make_record("bn")])
    assert [row[5] for row in table3.rows] == ["84.84", "83.28", "94.47", "94.62", None]
    assert [row[5] for row in table4.rows if row[5]] == [
        f"{value:.2f}"
        for (branch, _), row in PAPER.items()
        if branch == "adv"
        for value in row.values()
    ]
    assert [row[1] for row in table3.rows] == ["BN", "ModeNorm", "AuxBN", "SaAuxBN (clean)", "SaBN"]


def test_missing_norm_shows_a_dash_and_the_command_that_trains_it():
    table3, _, _ = tables([make_record("bn")], train_command="make train NORM={norm} CONFIG=x")
    assert "SA            ModeNorm         -" in to_text([table3])
    assert "ModeNorm is not trained yet: make train NORM=modenorm CONFIG=x" in table3.notes


def test_control_stands_last_without_the_paper_s_numbers():
    table3, _, _ = tables([make_record("bn", adversarial=False, sa=190), make_record("bn")])
    row = find(table3, "SA", "BN, plain (control)")
    assert table3.rows[-1][1] == "BN, plain (control)"
    assert (row["Ours %"], row["Paper %"], row["Difference"]) == (0.95, None, None)


def test_several_seeds_give_mean_and_deviation():
    records = [make_record("auxbn", seed=seed, sa=sa) for seed, sa in enumerate((170, 180, 184))]
    table3, _, _ = tables([*records, make_record("bn")])
    row = find(table3, "SA", "AuxBN (clean)")
    assert row["Ours %"] == pytest.approx(0.89)
    assert row["SD over seeds"] == pytest.approx(np.std([0.85, 0.9, 0.92], ddof=1))
    assert row["95 % interval"] == pytest.approx(wilson(178, N))
    assert find(table3, "SA", "BN")["SD over seeds"] is None
    assert "at the mean over seeds" in table3.notes[0]


def test_rows_that_the_images_do_not_tell_apart_share_a_letter():
    records = [
        make_record("bn", sa=180),
        make_record("modenorm", sa=181),  # one image more: p = 1
        make_record("saauxbn", sa=150),  # thirty fewer, no other difference: p = 2^-29
    ]
    table3 = tables(records)[0]
    assert [find(table3, "SA", name)["Group"] for name in ("BN", "ModeNorm")] == ["a", "a"]
    assert find(table3, "SA", "SaAuxBN (clean)")["Group"] == "b"
    assert find(table3, "SA", "AuxBN")["Group"] is None  # not trained
    assert table3.notes[-1].startswith("Group: rows of one evaluation that share a letter")


def test_letters_are_of_adjusted_p_values():
    # Seven images lost and none won: p = 2^-6 = 0.016 each. Of three pairs, Holm makes 0.047 of the
    # first, and of six pairs 0.094: a fourth model takes the letter away.
    three = [
        make_record("bn", sa=180),
        make_record("modenorm", sa=180),
        make_record("ccbn", sa=173),
    ]
    marks = [row[4] for row in tables(three)[0].rows if row[4]]
    assert marks == ["a", "a", "b"]
    marks = [row[4] for row in tables([*three, make_record("sabn", sa=180)])[0].rows if row[4]]
    assert marks == ["a", "a", "a", "a"]


def test_records_of_several_configs_and_checkpoints_are_models_of_their_own():
    last = {"tag": "last", "epoch": 3, "epochs": 3, "sha256": "ab"}
    records = [
        make_record("auxbn", sa=180),
        make_record("auxbn", sa=170, checkpoint=last),
        make_record("auxbn", sa=160, name="other"),
        make_record("auxbn", sa=162, name="other", seed=1),
    ]
    table3 = tables(records)[0]
    ours = {row[1]: row[2] for row in table3.rows if row[2]}
    assert ours == {
        "AuxBN, other, best (clean)": 0.805,
        "AuxBN, test, best (clean)": 0.9,
        "AuxBN, test, last (clean)": 0.85,
    }


def test_protocols_that_differ_in_training_only_are_comparable():
    records = [make_record("bn"), make_record("auxbn")]
    records[1].protocol.update(name="paper", train_steps=7, attack_norm_mode="eval")
    notes = " ".join(tables(records)[0].notes)
    assert "protocol BN: 'short', AuxBN: 'paper'" in notes


def test_tables_refuse_a_run_given_twice():
    with pytest.raises(RecordError, match="two records of AuxBN, seed 0"):
        tables([make_record("auxbn"), make_record("auxbn", sa=170)])


def test_matrix_shows_every_pair_of_branches():
    matrix = tables([make_record("auxbn"), make_record("bn")])[2]
    assert [row[:4] for row in matrix.rows] == [
        ("BN", "no attack", "single", 0.9),
        ("BN", "single", "single", 0.4),
        ("AuxBN", "no attack", "clean", 0.9),
        ("AuxBN", "no attack", "adv", 0.85),
        ("AuxBN", "clean", "clean", 0.35),
        ("AuxBN", "clean", "adv", 0.5),
        ("AuxBN", "adv", "clean", 0.5),
        ("AuxBN", "adv", "adv", 0.4),
    ]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image_ids": list(range(1, N + 1))}, "different test images"),
        ({"dataset": {"sha256": "other"}}, "different data"),
        ({"protocol": {"epsilon": "4/255"}}, "different protocols"),
    ],
)
def test_tables_refuse_to_mix_evaluations(change, message):
    with pytest.raises(RecordError, match=f"{message} for auxbn seed 0 and bn seed 0"):
        tables([make_record("auxbn"), make_record("bn", **change)])


def test_tables_refuse_no_records():
    with pytest.raises(RecordError, match="at least one result record"):
        tables([])


def test_deployment_is_the_worst_case_over_all_attacks():
    made = tables([serving_record()])
    deployment = made[-1]
    assert deployment.name == "deployment"
    rows = {row[1]: row for row in deployment.rows}
    assert set(rows) == {"always clean", "always adv", "mean logits"}
    # bits(c, s) are the images s..c+s-1: the intersection begins at the largest shift.
    worst = {
        name: min(broken, *(count + shift for shift, count in enumerate(lasts))) - 2
        for name, (_, broken, *lasts) in RULE_VERDICTS.items()
    }
    for name, key in (("always clean", "clean"), ("always adv", "adv"), ("mean logits",) * 2):
        assert rows[name][2] == RULE_VERDICTS[key][0] / N
        assert rows[name][4] == pytest.approx(worst[key] / N)
        assert rows[name][5] == wilson(worst[key], N)


def test_matrix_leaves_serving_rules_to_the_deployment():
    matrix = tables([serving_record()])[2]
    assert {row[1] for row in matrix.rows} == {"no attack", "clean", "adv"}


def test_there_is_no_deployment_without_serving_rules():
    assert [table.name for table in tables([make_record()])] == [
        "table3",
        "table4",
        "branch-matrix",
    ]


def test_autoattack_is_a_row_of_table_4_without_a_paper_value():
    record = make_record("bn")
    record.verdicts.append(Verdict("autoattack", "final", SINGLE, SINGLE, bits(60)))
    table3, table4, _ = tables([record])
    row = find(table4, "RA, AutoAttack", "BN")
    assert (row["Ours %"], row["Paper %"], row["Any %"]) == (0.3, None, None)
    assert all(row[0] == "SA" for row in table3.rows)
    assert any(note.startswith("AutoAttack: the standard ensemble") for note in table4.notes)
    assert not any("AutoAttack" in row[0] for row in tables([make_record("bn")])[1].rows)


def test_named_attacks_and_their_worst_case_are_rows_of_table_4():
    record = make_record("bn", ra=80)
    record.verdicts.extend(
        [
            Verdict("pgd-50x5-margin", "final", SINGLE, SINGLE, bits(60, shift=10)),
            Verdict("transfer:auxbn-seed0", "final", "adv", SINGLE, bits(90, shift=5)),
        ]
    )
    table4 = tables([record])[1]
    assert [row[0] for row in table4.rows if row[1] == "BN"] == [
        "SA",
        "RA, PGD-10",
        "RA, PGD-20",
        "RA, pgd-50x5-margin",
        "RA, worst case",
    ]
    assert find(table4, "RA, pgd-50x5-margin", "BN")["Ours %"] == 0.3
    # Images 10..69, those that withstand all: of 0..77 (any), 10..69 and 5..94.
    assert find(table4, "RA, worst case", "BN")["Ours %"] == 0.3
    record.verdicts[-2] = Verdict("fgsm", "final", SINGLE, SINGLE, bits(100, shift=10))
    assert any("withstand every iterate of PGD and fgsm" in n for n in tables([record])[1].notes)
    row = find(tables([record])[1], "RA, worst case", "BN")
    assert row["Ours %"] == 68 / N  # images 10..77
    assert (row["Paper %"], row["Any %"]) == (None, None)


def with_worst(record):
    """The record with the attack worst on each branch, ten images fewer than PGD-20 leaves."""
    for place in record.branches:
        robust = record.find("pgd-20", "any", place, place).correct
        record.verdicts.append(
            Verdict("worst", "final", place, place, bits(robust.sum() - 10), forward=9, backward=8)
        )
    return record


def test_worst_case_is_the_last_row_of_table_4_and_a_column():
    table3, table4, matrix = tables([with_worst(make_record("saauxbn", ra=80))])
    mine = [row[0] for row in table4.rows if row[1] == "SaAuxBN (adv)"]
    assert mine == ["SA", "RA, PGD-10", "RA, PGD-20", "RA, worst case"]
    assert table4.rows[-1][0] == "RA, worst case"
    row = find(table4, "RA, worst case", "SaAuxBN (adv)")
    assert (row["Ours %"], row["95 % interval"]) == (68 / N, wilson(68, N))
    for evaluation in ("RA, PGD-10", "RA, PGD-20"):
        assert find(table4, evaluation, "SaAuxBN (adv)")["Worst %"] == 68 / N
    assert find(table4, "SA", "SaAuxBN (adv)")["Worst %"] is None
    assert "Worst %" not in table3.columns
    worst = {row[1:3]: row[5] for row in matrix.rows}
    assert worst["adv", "adv"] == 68 / N
    assert worst["clean", "clean"] == 58 / N
    assert worst["clean", "adv"] is worst["no attack", "adv"] is None
    assert any(note.startswith("Worst case, Worst %") for note in table4.notes)


def test_records_without_worst_print_a_dash():
    _, table4, matrix = tables([make_record("saauxbn")])
    assert "Worst %" in table4.columns
    assert {row[8] for row in table4.rows} == {row[5] for row in matrix.rows} == {None}
    assert to_csv(table4).splitlines()[-1].endswith(",")
    assert not any("worst" in note.lower() for note in table4.notes)

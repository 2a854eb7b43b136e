from dataclasses import replace
from statistics import mean, stdev

import numpy as np
import pytest

from robustnorm.applications.nas.benchmark import SETS, accuracies
from robustnorm.applications.nas.comparison import compare_norms, group_by_norm
from robustnorm.applications.nas.readout import read
from robustnorm.applications.nas.record import Entry, SearchRecord
from robustnorm.applications.nas.space import CONV_3X3, NONE, SKIP, number, to_string
from robustnorm.applications.nas.table2 import PAPER, summary, tables
from robustnorm.evaluation.statistics import student
from robustnorm.system.errors import UsageError

CELLS = {"bn": (SKIP,) * 6, "sabn": (CONV_3X3,) * 6, "ccbn": (NONE,) * 6}


def record(settings, norm="sabn", seed=0, cell=None, **changes):
    """A search that ended with a cell."""
    alpha = np.full((6, 5), -1.0)
    alpha[np.arange(6), cell or CELLS[norm]] = 1.0
    alpha += np.random.default_rng(seed).normal(size=(6, 5)) / 10  # which changes no maximum
    settings = replace(settings, norm=norm, seed=seed, **changes)
    first = Entry(0, np.zeros((6, 5)).tolist(), None, None)
    last = Entry(settings.stop_step, alpha.tolist(), 1.0, 1.0)
    data = {"name": "noise", "sha256": "0" * 64, "classes": 3, "image_size": [8, 8]}
    data |= {"weight_images": 20, "alpha_images": 20}
    return SearchRecord(settings.to_dict(), data, [first, last], 1.0, "CPU", {"torch": "2"})


@pytest.fixture
def records(settings):
    return [record(settings, norm, seed) for seed in range(6) for norm in ("bn", "sabn")]


def rows(table, *start):
    return [row for row in table.rows if row[: len(start)] == start]


def test_row_is_the_mean_over_seeds_of_the_cells_ground_truth(settings):
    other = (CONV_3X3, *CELLS["bn"][1:])
    found = [record(settings, "bn", 0), record(settings, "bn", 1, cell=other)]
    values = [accuracies()[number(cell)][1] for cell in (CELLS["bn"], other)]
    (row,) = rows(tables(found)[0], "CIFAR-100", "DARTS")
    assert row[2] == pytest.approx(mean(values))
    assert row[3].low == max(0, student(values).low)
    assert row[4] == pytest.approx(stdev(values))
    assert row[6] == "44.05 ± 7.47"


def test_table_has_the_paper_s_rows_a_random_cell_and_the_optimum(records):
    table = tables(records)[0]
    for title in SETS:
        names = [row[1] for row in rows(table, title)]
        searches = ["DARTS", "DARTS-affine", "DARTS-CCBN", "DARTS-SaBN"]
        assert names == [*searches, "random cell", "optimum"]
    (random,), (optimum,) = (rows(table, "CIFAR-100", name) for name in ("random cell", "optimum"))
    assert (round(100 * random[2], 2), round(100 * random[4], 1)) == (61.41, 12.2)
    assert (round(100 * optimum[2], 2), optimum[6]) == (73.51, "73.51")
    notes = " ".join(table.notes)
    assert "median 65.29" in notes
    assert "3 of the paper's 4 rows lie below the median" in notes


def test_norm_without_searches_stands_with_the_paper_s_number_alone(records):
    (row,) = rows(tables(records)[0], "ImageNet16-120", "DARTS-CCBN")
    assert row[2:] == (None, None, None, None, "31.25 ± 6.20")


def test_paper_s_numbers_are_those_of_its_text():
    assert PAPER["CIFAR-100"]["sabn"] == (71.56, 1.39)
    assert PAPER["ImageNet16-120"]["bn"] == (36.47, 7.06)
    assert [len(rows) for rows in PAPER.values()] == [4, 4]


def test_pairs_are_compared_on_common_seeds(settings):
    found = [record(settings, "bn", seed) for seed in (0, 1, 2, 5)]
    found += [record(settings, "sabn", seed) for seed in (5, 2, 1, 7)]
    (pair,) = compare_norms(group_by_norm(found), lambda readout: readout.truth[1])
    gap = float(accuracies()[number(CELLS["sabn"])][1] - accuracies()[number(CELLS["bn"])][1])
    assert pair.differences == (gap,) * 3
    assert pair.p == 2 / 2**3


def test_p_values_are_adjusted_for_the_pairs(settings):
    found = [record(settings, norm, seed) for norm in CELLS for seed in range(6)]
    pairs = compare_norms(group_by_norm(found), lambda readout: readout.truth[1])
    assert [pair.p for pair in pairs] == [2 / 2**6] * 3
    assert [pair.adjusted for pair in pairs] == [6 / 2**6] * 3
    assert not any(pair.distinguishable for pair in pairs)


def test_group_letters_follow_from_the_adjusted_tests(settings):
    found = [record(settings, norm, seed) for norm in ("bn", "sabn") for seed in range(6)]
    marks = [row[5] for row in rows(tables(found)[0], "CIFAR-100")]
    assert marks[0] != marks[3]  # p = 2 / 64
    few = [r for r in found if r.search.seed < 5]
    marks = [row[5] for row in rows(tables(few)[0], "CIFAR-100")]
    assert marks[0] == marks[3] == "a"  # p = 2 / 32


def test_expected_accuracy_and_skip_mass_are_those_of_the_last_alpha(records):
    table = tables(records)[1]
    readouts = [read(r.history[-1].array) for r in records if r.search.norm == "sabn"]
    (row,) = rows(table, "CIFAR-100", "DARTS-SaBN")
    assert row[2] == pytest.approx(mean(readout.expected[1] for readout in readouts))
    assert row[5] == f"{mean(r.rank_correlation[1] for r in readouts):.3f}"
    assert row[7] == f"{mean(r.skip_mass for r in readouts):.3f}"


def test_every_search_is_listed_with_its_cell(records):
    table = tables(records)[3]
    assert len(table.rows) == len(records)
    (row,) = rows(table, "DARTS", "3")
    assert row[5] == "6"
    assert row[-1] == to_string(CELLS["bn"]).replace("|", "/")


def test_notes_say_what_was_searched(records):
    note = tables(records)[0].notes[0]
    for said in ("Searched on noise", "20 held-out training images", "6 of 8 steps", "(1, 5, 25 "):
        assert said in note
    assert "Seeds: DARTS 6, DARTS-SaBN 6." in note


def test_release_s_split_is_named(settings):
    note = tables([record(settings, alpha_split="test")])[0].notes[0]
    assert "20 test images for alpha" in note


def test_reading_says_whether_sabn_is_better(records, settings):
    said = summary(group_by_norm(records))
    assert "ground truth of the cell, CIFAR-100: +55.50 [55.50, 55.50], higher" in said
    few = summary(group_by_norm(records[:6]))
    assert "+55.50 [55.50, 55.50], not distinguishable (p = 0.250, 3 seeds)" in few
    assert "so there is no result" in summary(group_by_norm([record(settings)]))


def test_one_seed_has_no_interval_and_no_group(settings):
    made = tables([record(settings, "bn"), record(settings, "sabn")])
    (row,) = rows(made[0], "CIFAR-100", "DARTS")
    assert row[3:6] == (None, None, None)
    assert [table.name for table in made] == ["table2", "expected", "searches"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"cells": 2}, "cells: 2 there, 1 here"), ({"paths": "paper"}, "paths: paper there")],
)
def test_searches_of_other_settings_are_not_compared(settings, changes, message):
    with pytest.raises(UsageError, match=message):
        tables([record(settings, "bn"), record(settings, "sabn", **changes)])


def test_searches_on_other_data_are_not_compared(settings):
    other = record(settings, "sabn")
    other.dataset["sha256"] = "1" * 64
    with pytest.raises(UsageError, match="data: noise there"):
        tables([record(settings, "bn"), other])


def test_nothing_to_compare_says_what_to_run():
    with pytest.raises(UsageError, match="robustnorm table2"):
        tables([])

"""The report of models with several seeds, or of which one lacks what the others have."""

from dataclasses import replace

import pytest
from page_reader import Page, plain
from record_factory import make_full_record, make_record

from robustnorm.reporting.claims import claims_table
from robustnorm.reporting.page import render_page
from robustnorm.reporting.render import layout


def test_claims_are_shown_where_several_seeds_test_them():
    several = [
        make_record(norm, seed, ra=ra + seed * len(norm))
        for norm, ra in (("bn", 80), ("auxbn", 95))
        for seed in range(2)
    ]
    table = claims_table(several)
    found = Page(render_page(several)[0])
    shown = [row for row in plain(found.tables[table.title])[1:] if len(row) > 2]
    assert len(shown) == 3
    assert [row[-len(row) :] for row in shown] == [row[1:] for row in layout(table)[0]]
    assert table.title not in Page(render_page(several[::2])[0]).tables  # one seed of each


@pytest.mark.parametrize("control", [False, True])
def test_page_of_one_norm_says_why_there_is_no_paired_test(control):
    several = [make_record("bn", seed) for seed in range(2)]
    several += [make_record("bn", seed, adversarial=False) for seed in range(2) if control]
    said = "There are no two models or branches to compare"
    reason = ": controls, whose accuracies vary differently over seeds, are not compared" * control
    assert f"{said}{reason}." in Page(render_page(several)[0]).text


@pytest.fixture(scope="module")
def mixed():
    """Two seeds of one model, one of them with an unreliable check, and a model without extras."""
    records = [make_full_record("auxbn", seed=seed) for seed in range(2)]
    check = records[1].checks[0]
    records[1].checks[0] = replace(check, verdict="unreliable")
    return Page(render_page([*records, make_record("bn")])[0])


def test_worst_verdict_of_the_seeds_is_shown(mixed):
    shown = mixed.tables["Verdict of each check, by model and branch or serving rule"]
    assert shown[2] == ["FGSM", "✗ unreliable", "✓ reliable"]
    assert shown[4] == ["worst verdict", "✗ unreliable", "! warn"]
    assert "AuxBN (2 seeds)" in " ".join(mixed.text.split())


def test_what_some_models_lack_is_named(mixed):
    # Checks, curve, history and examples.
    assert mixed.text.count("Not in the records of BN: run") == 4

"""The paper's claims from records whose accuracies are known, against tests worked out by hand."""

import itertools

import numpy as np
import pytest
import record_factory
from scipy.stats import ttest_rel

from robustnorm.evaluation.statistics import mcnemar
from robustnorm.records.record import SINGLE, Verdict
from robustnorm.reporting.claims import claims, claims_table, claims_text, seeds_table

N = 1000


def bits(correct):
    return np.arange(N) < correct


def make_record(norm, seed, sa, ra, worst=None):
    branches = ("clean", "adv") if norm in ("auxbn", "saauxbn") else (SINGLE,)
    counts = {"none": sa, "pgd-10": ra, "pgd-20": ra} | ({} if worst is None else {"worst": worst})
    verdicts = [
        Verdict(attack, "final", branch, branch, bits(correct))
        for branch in branches
        for attack, correct in counts.items()
    ]
    return record_factory.make_record(
        norm, seed, image_ids=list(range(N)), labels=[0] * N, verdicts=verdicts
    )


def named(found, evaluation, higher, lower):
    (claim,) = (
        c for c in found if (c.evaluation, c.higher, c.lower) == (evaluation, higher, lower)
    )
    return claim


def test_verdicts_follow_from_a_paired_test_over_seeds():
    ours, theirs = (521, 540, 533), (400, 421, 409)
    records = [make_record("saauxbn", s, a, 300 + s) for s, a in enumerate(ours)]
    records += [make_record("bn", s, a, 299 + 2 * s) for s, a in enumerate(theirs)]
    found = claims(records)
    assert [(c.evaluation, c.higher, c.lower) for c in found] == [
        ("SA", "saauxbn", "bn"),
        ("RA, PGD-20", "saauxbn", "bn"),
    ]
    holds, unclear = found
    assert holds.differences == pytest.approx([0.121, 0.119, 0.124])
    assert holds.p == pytest.approx(ttest_rel(ours, theirs).pvalue)
    assert holds.verdict == "holds"
    assert holds.interval.low < 0.12133 < holds.interval.high
    assert unclear.verdict == "not distinguishable"


def test_claim_that_points_the_other_way_is_contradicted():
    records = [make_record("auxbn", s, 400 + s, 100) for s in range(3)]
    records += [make_record("bn", s, 500 + 2 * s, 100) for s in range(3)]
    assert named(claims(records), "SA", "auxbn", "bn").verdict == "contradicted"


@pytest.mark.parametrize("seeds", [1, 3])
def test_one_seed_or_no_spread_gives_no_verdict(seeds):
    records = [make_record(norm, s, sa, 9) for s in range(seeds) for norm, sa in
               (("bn", 100), ("auxbn", 900))]  # fmt: skip
    assert {claim.verdict for claim in claims(records)} == {"not distinguishable"}


@pytest.mark.parametrize(
    ("ours", "theirs"), [((116, 176), (111, 171)), ((311, 371), (306, 366)), ((7, 905), (2, 900))]
)
def test_equal_differences_have_no_spread_whatever_the_counts(ours, theirs):
    """The floats of 116 and 111 of 1,000 differ in other last bits than those of 311 and 306."""
    records = [make_record("auxbn", s, sa, 100) for s, sa in enumerate(ours)]
    records += [make_record("bn", s, sa, 100) for s, sa in enumerate(theirs)]
    claim = named(claims(records), "SA", "auxbn", "bn")
    assert (claim.p, claim.interval, claim.verdict) == (1.0, None, "not distinguishable")
    assert claims_text(records).splitlines()[0] == (
        "- SA, AuxBN > BN: **not distinguishable**, +0.50 points (without spread) over 2 seeds, "
        "p = 1.000"
    )


def test_seeds_that_one_norm_lacks_are_left_out():
    records = [make_record("auxbn", s, 500, 10) for s in (0, 1, 2)]
    records += [make_record("bn", s, 400 + s, 10) for s in (1, 2)]
    assert named(claims(records), "SA", "auxbn", "bn").differences == pytest.approx((0.099, 0.098))


def test_control_is_no_norm_of_a_claim():
    record = make_record("bn", 0, 500, 1)
    control = record_factory.make_record(
        "bn", 0, adversarial=False, image_ids=record.image_ids, labels=record.labels,
        verdicts=record.verdicts,
    )  # fmt: skip
    assert claims_table([record, control]) is None


def test_table_says_what_the_worst_case_does_not_show():
    records = [make_record("saauxbn", s, 500, 320 + s, 280 + s) for s in range(3)]
    records += [make_record("auxbn", s, 500, 300, 279) for s in range(3)]
    table = claims_table(records)
    (row,) = (r for r in table.rows if r[0] == "RA, PGD-20")
    assert row[1] == "SaAuxBN > AuxBN"
    assert row[3] == "+2.10"
    assert row[-1] == "+1.90"  # 2.1 points under PGD-20, 0.2 in the worst case


def test_sentences_say_what_the_table_says():
    records = [make_record("saauxbn", s, 600 + s, 320 + s, 280 + s) for s in range(3)]
    records += [make_record("auxbn", s, 500, 300, 279) for s in range(3)]
    lines = claims_text(records).splitlines()
    rows = claims_table(records).rows
    assert len(lines) == len(rows) == 3
    for line, (evaluation, claim, verdict, difference, interval, _, _, p, *_) in zip(
        lines, rows, strict=True
    ):
        assert line.startswith(
            f"- {evaluation}, {claim}: **{verdict}**, {difference} points {interval} over 3 seeds, "
            + (f"p {p}" if p.startswith("<") else f"p = {p}")
        )
    assert "p < 0.001" in lines[0]
    assert lines[1].endswith("; +0.20 in the worst case, to which PGD-20 adds +1.90")
    assert claims_text([record for record in records if record.seed == 0]) == ""


def test_seeds_are_counted_in_which_images_tell_the_norms_apart():
    """One seed clearly as claimed, one clearly the other way, one with a single image between."""
    higher, lower = (600, 400, 501), (400, 600, 500)
    records = [make_record("auxbn", s, sa, 100) for s, sa in enumerate(higher)]
    records += [make_record("bn", s, sa, 100) for s, sa in enumerate(lower)]
    assert named(claims(records), "SA", "auxbn", "bn").by_images == (1, -1, 0)
    (row,) = (row for row in claims_table(records).rows if row[0] == "SA")
    assert row[6] == "1 for, 1 against"


def test_tests_of_an_evaluation_are_adjusted_together():
    """Six images decide a claim alone (p = 0.03), but not as one of three (Holm: 0.09)."""
    pair = [make_record("auxbn", 0, 506, 100), make_record("bn", 0, 500, 100)]
    assert mcnemar(bits(506), bits(500)) == pytest.approx(2 / 2**6)
    assert named(claims(pair), "SA", "auxbn", "bn").by_images == (1,)
    # SaAuxBN is one image away, so the smallest of three p-values is counted three times.
    more = [*pair, make_record("saauxbn", 0, 505, 100)]
    assert named(claims(more), "SA", "auxbn", "bn").by_images == (0,)


def test_seeds_of_an_evaluation_are_adjusted_together():
    ours, theirs, third = (521, 540, 533), (400, 421, 409), (462, 470, 480)
    values = {"saauxbn": ours, "auxbn": third, "bn": theirs}
    records = [
        make_record(norm, s, sa, 100) for norm, of in values.items() for s, sa in enumerate(of)
    ]
    alone = ttest_rel(ours, theirs).pvalue
    assert alone == min(
        ttest_rel(*two).pvalue for two in itertools.combinations(values.values(), 2)
    )
    assert named(claims(records), "SA", "saauxbn", "bn").p == pytest.approx(3 * alone)


def test_seeds_have_mean_and_standard_deviation():
    records = [make_record("bn", s, sa, 100) for s, sa in enumerate((400, 410, 420))]
    rows = {(row[0], row[1]): row[2:] for row in seeds_table(records).rows}
    assert rows["SA", "BN"] == ("3", pytest.approx(0.41), "1.00")
    assert rows["RA, PGD-20", "BN"] == ("3", pytest.approx(0.1), "0.00")

"""The paper's claims from records whose accuracies are known, against tests worked out by hand."""

from dataclasses import replace

import numpy as np
import pytest
import record_factory
from scipy.stats import ttest_rel

from robustnorm.evaluation.statistics import crossed, holm, mcnemar
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


def named(found, evaluation, higher, lower, branch="adv"):
    wanted = (evaluation, branch, higher, lower)
    (claim,) = (c for c in found if (c.evaluation, c.branch, c.higher, c.lower) == wanted)
    return claim


def clean(found, higher, lower):
    return named(found, "SA", higher, lower, "clean")


def test_orders_are_those_of_the_tables_in_the_paper():
    records = [
        make_record(norm, 0, 500, 300, 280) for norm in ("bn", "modenorm", "auxbn", "saauxbn")
    ]
    orders = [
        line for line in claims_text(records).splitlines() if "branch**, in the paper" in line
    ]
    assert orders == [
        "- **SA, clean branch**, in the paper SaAuxBN > AuxBN > BN > ModeNorm",
        "- **SA, adv branch**, in the paper BN > SaAuxBN > AuxBN > ModeNorm",
        "- **RA, PGD-20, adv branch**, in the paper SaAuxBN > ModeNorm > AuxBN > BN",
        "- **RA, worst case, adv branch**, in the paper under PGD-20 SaAuxBN > ModeNorm > AuxBN > "
        "BN",
    ]


def test_verdicts_follow_from_a_test_over_seeds_and_images():
    ours, theirs = (521, 540, 533), (400, 421, 409)
    records = [make_record("saauxbn", s, a, 300 + s) for s, a in enumerate(ours)]
    records += [make_record("bn", s, a, 299 + 2 * s) for s, a in enumerate(theirs)]
    found = claims(records)
    assert [(c.evaluation, c.branch, c.higher, c.lower) for c in found] == [
        ("SA", "clean", "saauxbn", "bn"),
        ("SA", "adv", "bn", "saauxbn"),
        ("RA, PGD-20", "adv", "saauxbn", "bn"),
    ]
    holds, against, unclear = found
    assert against.verdict == "contradicted"
    assert holds.differences == pytest.approx([0.121, 0.119, 0.124])
    assert holds.verdict == "holds"
    assert holds.interval.low < 0.12133 < holds.interval.high
    assert unclear.verdict == "not distinguishable"


def test_claim_that_points_the_other_way_is_contradicted():
    records = [make_record("auxbn", s, 400 + s, 100) for s in range(3)]
    records += [make_record("bn", s, 500 + 2 * s, 100) for s in range(3)]
    assert clean(claims(records), "auxbn", "bn").verdict == "contradicted"


def test_no_spread_gives_no_verdict():
    records = [make_record(norm, s, sa, 9) for s in range(3) for norm, sa in
               (("bn", 100), ("auxbn", 900))]  # fmt: skip
    assert {claim.verdict for claim in claims(records)} == {"not distinguishable"}


def test_one_seed_gives_no_verdict_but_what_its_images_say():
    # Nested verdicts: the images that differ are the difference of the counts, all won by one.
    counts = {"bn": 490, "modenorm": 451, "auxbn": 450, "saauxbn": 530}
    records = [make_record(norm, 0, 500, ra) for norm, ra in counts.items()]
    text = claims_text(records)
    assert "images of one seed, which is no verdict on the norms" in text
    said = text.partition("- **RA, PGD-20")[2]
    parts = dict(part.split(": ") for part in said.split("\n  - ")[1:])
    assert set(parts) == {"as in the paper", "the other way", "within noise"}
    assert "SaAuxBN > BN +4.00 (p < 0.001)" in parts["as in the paper"]
    assert "SaAuxBN > AuxBN +8.00" in parts["as in the paper"]
    assert "ModeNorm > BN -3.90" in parts["the other way"]
    assert "AuxBN > BN -4.00" in parts["the other way"]
    assert "ModeNorm > AuxBN +0.10 (p = 1.000)" in parts["within noise"]
    assert claims_table(records) is None


def test_p_of_one_seed_is_that_of_the_exact_test_adjusted_by_holm():
    # AuxBN wins 8 images of 8 against BN, SaAuxBN 15 of 15 against BN and 7 of 7 against AuxBN.
    counts = {"bn": 100, "auxbn": 108, "saauxbn": 115}
    text = claims_text([make_record(norm, 0, 500, ra) for norm, ra in counts.items()])
    said = text.partition("- **RA, PGD-20")[2]
    for claim, k, times in (("SaAuxBN > BN", 15, 3), ("AuxBN > BN", 8, 2), ("> AuxBN", 7, 1)):
        p = times * 2 / 2**k
        assert f"{claim} +{k / 10:.2f} (" + ("p < 0.001" if p < 1e-3 else f"p = {p:.3f}") in said


@pytest.mark.parametrize(
    ("ours", "theirs"), [((116, 176), (111, 171)), ((311, 371), (306, 366)), ((7, 905), (2, 900))]
)
def test_equal_differences_have_no_spread_whatever_the_counts(ours, theirs):
    """The floats of 116 and 111 of 1,000 differ in other last bits than those of 311 and 306."""
    records = [make_record("auxbn", s, sa, 100) for s, sa in enumerate(ours)]
    records += [make_record("bn", s, sa, 100) for s, sa in enumerate(theirs)]
    claim = clean(claims(records), "auxbn", "bn")
    assert (claim.p, claim.interval, claim.verdict) == (1.0, None, "not distinguishable")
    assert claims_text(records).splitlines()[3] == (
        "  - not distinguishable: AuxBN > BN +0.50 (p = 1.000)"
    )


def test_images_are_a_sample_too():
    """Seeds agree on a difference of eight images to one, which other images might not show."""
    ours, theirs = (508, 518, 529), (500, 510, 520)
    records = [make_record("auxbn", s, a, 100) for s, a in enumerate(ours)]
    records += [make_record("bn", s, a, 100 + s) for s, a in enumerate(theirs)]
    claim = clean(claims(records), "auxbn", "bn")
    assert ttest_rel(ours, theirs).pvalue < 0.002
    assert claim.interval.low > 0.001
    shuffled = [make_record("auxbn", s, a, 100) for s, a in enumerate(ours)]
    for s, record in enumerate(shuffled):  # the same counts, but 500 other images differ each way
        verdicts = [replace(v, correct=np.roll(v.correct, 500)) for v in record.verdicts]
        shuffled[s] = replace(record, verdicts=verdicts)
    claim = clean(claims([*shuffled, *records[3:]]), "auxbn", "bn")
    assert claim.verdict == "not distinguishable"


def test_differences_that_round_to_zero_have_no_sign_of_their_own():
    records = [make_record("auxbn", s, sa, 10) for s, sa in enumerate((500, 501))]
    records += [make_record("bn", s, sa, 10) for s, sa in enumerate((501, 500))]
    assert "AuxBN > BN +0.00 [" in claims_text(records)
    assert "-0.00" not in claims_text(records)


def test_seeds_that_one_norm_lacks_are_left_out():
    records = [make_record("auxbn", s, 500, 10) for s in (0, 1, 2)]
    records += [make_record("bn", s, 400 + s, 10) for s in (1, 2)]
    assert clean(claims(records), "auxbn", "bn").differences == pytest.approx((0.099, 0.098))


def test_norms_of_several_checkpoints_make_no_claims():
    """Before, those of the last one were shown, without a word on which these are."""
    best = [make_record(norm, s, 500 + s, 10) for norm in ("auxbn", "bn") for s in (0, 1)]
    last = [replace(record, checkpoint=record.checkpoint | {"tag": "last"}) for record in best]
    assert claims(best)
    assert claims(last)
    assert claims([*best, *last]) == []
    assert claims([*best[:2], *last[2:]]) == []


def test_branches_of_other_names_make_no_claims_but_have_accuracies():
    def renamed(record):
        verdicts = [
            replace(v, attack_branch=b, score_branch=b)
            for v in record.verdicts
            for b in ([v.score_branch] if v.score_branch in ("clean", SINGLE) else ["linf", "l2"])
        ]
        return replace(record, verdicts=verdicts)

    norms = ("bn", "modenorm", "saauxbn")
    records = [make_record(norm, s, 500 + s, 10, 9) for norm in norms for s in (0, 1)]
    assert {(claim.evaluation, claim.branch) for claim in claims(records)} == {
        *(("SA", "clean"), ("SA", "adv"), ("RA, PGD-20", "adv"), ("RA, worst case", "adv"))
    }
    records = [renamed(record) for record in records]
    assert {(claim.evaluation, claim.branch) for claim in claims(records)} == {("SA", "clean")}
    assert [row[1] for row in seeds_table(records).rows if row[0] == "RA, PGD-20"] == [
        *("BN", "ModeNorm", "SaAuxBN (clean)", "SaAuxBN (linf)", "SaAuxBN (l2)")
    ]


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
    (row,) = (r for r in table.rows if r[0] == "RA, PGD-20, adv branch")
    assert row[1] == "SaAuxBN > AuxBN"
    assert row[3] == "+2.10"
    assert row[-1] == "+1.90"  # 2.1 points under PGD-20, 0.2 in the worst case


def test_sentences_say_what_the_table_says():
    records = [make_record("saauxbn", s, 600 + s, 320 + s, 280 + s) for s in range(3)]
    records += [make_record("auxbn", s, 500, 300, 279) for s in range(3)]
    head, _, *lines = claims_text(records).splitlines()
    rows = claims_table(records).rows
    assert "over 3 seeds" in head
    *lines, last = lines
    assert len(lines) == 2 * len(rows) == 8
    for title, line, row in zip(lines[::2], lines[1::2], rows, strict=True):
        evaluation, claim, verdict, difference, interval, _, _, p, *_ = row
        p = f"p {p}" if p.startswith("<") else f"p = {p}"
        assert title.startswith(f"- **{evaluation}**")
        assert line.startswith(f"  - {verdict}: {claim} {difference} {interval} ({p}")
    assert "p < 0.001" in lines[1]
    assert last == "- **Added by PGD-20** to the worst case's differences: SaAuxBN > AuxBN +1.90"


def test_seeds_are_counted_in_which_images_tell_the_norms_apart():
    """One seed clearly as claimed, one clearly the other way, one with a single image between."""
    higher, lower = (600, 400, 501), (400, 600, 500)
    records = [make_record("auxbn", s, sa, 100) for s, sa in enumerate(higher)]
    records += [make_record("bn", s, sa, 100) for s, sa in enumerate(lower)]
    assert clean(claims(records), "auxbn", "bn").differences == pytest.approx((0.2, -0.2, 0.001))
    (row,) = (row for row in claims_table(records).rows if row[0] == "SA, clean branch")
    assert row[6] == "1 for, 1 against"


def test_tests_of_an_evaluation_are_adjusted_together():
    """Six images decide a claim alone (p = 0.03), but not as one of three (Holm: 0.09)."""
    pair = [make_record("auxbn", 0, 506, 100), make_record("bn", 0, 500, 100)]
    assert mcnemar(bits(506), bits(500)) == pytest.approx(2 / 2**6)
    assert clean(claims(pair), "auxbn", "bn").verdict == "as in the paper"
    # SaAuxBN is one image away, so the smallest of three p-values is counted three times.
    more = [*pair, make_record("saauxbn", 0, 505, 100)]
    assert clean(claims(more), "auxbn", "bn").verdict == "within noise"


def test_p_and_interval_are_those_of_the_crossed_test_adjusted_together():
    values = {"saauxbn": (521, 540, 533), "auxbn": (462, 470, 480), "bn": (400, 421, 409)}
    records = [
        make_record(norm, s, sa, 100) for norm, of in values.items() for s, sa in enumerate(of)
    ]
    correct = np.array([[bits(sa) for sa in of] for of in values.values()])
    expected = crossed(correct, [(0, 1), (0, 2), (1, 2)])
    found = [c for c in claims(records) if (c.evaluation, c.branch) == ("SA", "clean")]
    assert [c.name for c in found] == ["SaAuxBN > AuxBN", "SaAuxBN > BN", "AuxBN > BN"]
    assert [c.interval for c in found] == [test.interval for test in expected]
    assert [c.p for c in found] == holm([test.p for test in expected])


def test_seeds_have_mean_and_standard_deviation():
    records = [make_record("bn", s, sa, 100) for s, sa in enumerate((400, 410, 420))]
    rows = {(row[0], row[1]): row[2:] for row in seeds_table(records).rows}
    assert rows["SA", "BN"] == ("3", pytest.approx(0.41), "1.00")
    assert rows["RA, PGD-20", "BN"] == ("3", pytest.approx(0.1), "0.00")


def with_losses(norm, seed, clean_loss, adv_loss):
    """A record whose last epoch has these losses on test images, on the branch that they are of."""
    epoch = {"test": {branch: {"clean_loss": clean_loss if branch == "clean" else 9.0,
                               "adv_loss": adv_loss if branch == "adv" else 9.0}
                      for branch in ("clean", "adv")}}  # fmt: skip
    first = {"test": {branch: {"clean_loss": 5.0, "adv_loss": 5.0} for branch in ("clean", "adv")}}
    return record_factory.make_record(
        norm, seed, history=[first, epoch], config={"test_curve": 500}
    )


@pytest.mark.parametrize(
    ("adv_losses", "verdict"),
    [((1.9, 2.0, 2.1), "not distinguishable"), ((2.5, 2.6, 2.5), "contradicted")],
)
def test_figure6_has_a_verdict_per_branch(adv_losses, verdict):
    ours, theirs = (0.8, 0.9, 0.85), (1.0, 1.1, 1.06)
    records = [
        with_losses("saauxbn", s, *of) for s, of in enumerate(zip(ours, adv_losses, strict=True))
    ]
    records += [with_losses("auxbn", s, loss, 2.0) for s, loss in enumerate(theirs)]
    said = claims_text(records).partition("- **Figure 6, clean branch**")[2]
    low, high = ttest_rel(ours, theirs).confidence_interval()
    assert (
        f"\n  - holds: -0.203 [{low:+.3f}, {high:+.3f}], Student's over seeds (nats on 500 " in said
    )
    assert f"\n  - {verdict}: " in said.partition("- **Figure 6, adv branch**")[2]


@pytest.mark.parametrize("seeds", [1, 2])
def test_figure6_has_no_verdict_without_spread(seeds):
    records = [with_losses(norm, s, loss, 2.0) for s in range(seeds)
               for norm, loss in (("auxbn", 1.5), ("saauxbn", 1.0))]  # fmt: skip
    said = claims_text(records).partition("- **Figure 6, clean branch**")[2]
    assert "\n  - difference: -0.500 (nats on 500 test images, last epoch)" in said


def test_figure6_is_left_out_without_test_losses_or_where_one_is_not_finite():
    assert "Figure 6" not in claims_text([make_record(n, 0, 9, 9) for n in ("auxbn", "saauxbn")])
    records = [with_losses("auxbn", 0, 1.0, 2.0), with_losses("saauxbn", 0, float("nan"), 2.0)]
    assert "Figure 6, clean" not in claims_text(records)
    assert "Figure 6, adv" in claims_text(records)

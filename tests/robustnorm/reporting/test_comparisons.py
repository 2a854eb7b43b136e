"""Letters and paired tests, of one seed and of several, against formulas written out here."""

import math

import numpy as np
import pytest
from record_factory import N, bits, make_record
from scipy.stats import t, ttest_rel

from robustnorm.evaluation.statistics import mcnemar
from robustnorm.records.record import Verdict
from robustnorm.reporting.claims import claims
from robustnorm.reporting.comparisons import compare, families, group_note, groups, paired_tests
from robustnorm.reporting.model_records import group
from robustnorm.reporting.side_by_side import accuracy_table, name_models, significance
from robustnorm.reporting.summary import summary
from robustnorm.reporting.tables import tables

RA = "RA, PGD-20"
PAPER = ("bn", "modenorm", "auxbn", "saauxbn")


def sides(models):
    return [(model, model.branch("adv")) for model in models]


def verdicts(clean, adv):
    return [
        Verdict(attack, "final", branch, branch, bits(count))
        for branch, count in (("clean", clean), ("adv", adv))
        for attack in ("none", "pgd-20")
    ]


def random_records(rng, norms=PAPER, seeds=3):
    """Records with a small difference between norms, and some over seeds."""
    means = dict(zip(norms, rng.integers(90, 130, len(norms)), strict=True))
    return [
        make_record(norm, seed, ra=int(means[norm] + rng.integers(-3, 4)), shift=rng.integers(N))
        for norm in norms
        for seed in range(seeds)
    ]


def min_f(first, second):
    """The difference of two networks over seeds and images, and p: Clark's min F', by its formula.

    Over seeds the paired t-test, over images that of each image's mean over seeds.
    """
    seeds = ttest_rel(first.mean(1), second.mean(1)).statistic ** 2
    images = ttest_rel(first.mean(0), second.mean(0)).statistic ** 2
    f = seeds * images / (seeds + images)
    freedom = (seeds + images) ** 2 / (
        seeds**2 / (first.shape[1] - 1) + images**2 / (len(first) - 1)
    )
    return first.mean() - second.mean(), 2 * t.sf(math.sqrt(f), freedom)


def test_two_networks_over_seeds_have_the_p_of_min_f():
    rng = np.random.default_rng(0)
    first, second = rng.random((2, 4, 300)) < np.array([0.6, 0.5])[:, None, None]
    (found,) = compare([{"a": first, "b": second}])
    difference, p = min_f(first, second)
    assert found.difference == pytest.approx(difference)
    assert found.p == found.adjusted == pytest.approx(p)
    assert (found.first_only - found.second_only, found.n) == (first.sum() - second.sum(), 4 * 300)
    assert found.interval.low < difference < found.interval.high
    assert (found.interval.low > 0) == found.distinguishable


def test_branches_over_seeds_are_compared_within_each_model():
    """The p-values of both models are adjusted together: by Holm's method, twice the smaller."""
    counts = {  # of correct images by model: clean and adv branch, for each seed
        "AuxBN": ((100, 104, 90), (140, 141, 136)),
        "SaAuxBN": ((120, 90, 101), (115, 120, 125)),
    }
    records = [
        make_record(name.lower(), seed, verdicts=verdicts(clean, adv))
        for name, (of_clean, of_adv) in counts.items()
        for seed, (clean, adv) in enumerate(zip(of_clean, of_adv, strict=True))
    ]
    found = families(group(records), [RA])[f"{RA}, between branches"]
    expected = {}
    for name, branches in counts.items():
        clean, adv = (np.array([bits(count) for count in of]) for of in branches)
        expected[f"{name} (clean)", f"{name} (adv)"] = min_f(clean, adv)
    assert [(test.first, test.second) for test in found] == [*expected]
    differences, p = zip(*expected.values(), strict=True)
    assert [test.difference for test in found] == pytest.approx(differences)
    assert [test.p for test in found] == pytest.approx(p)
    assert p[0] < p[1]
    assert [test.adjusted for test in found] == pytest.approx([2 * p[0], max(2 * p[0], p[1])])


@pytest.mark.parametrize("draw", range(8))
def test_letters_over_seeds_say_what_the_claims_say(draw):
    """They are of one test; a control beside the norms has no letter and changes nothing."""
    records = random_records(np.random.default_rng(draw))
    controls = [make_record("bn", s, adversarial=False, ra=1 + s) for s in range(3)]
    models = group([*records, *controls])
    marks = groups(RA, sides(models))
    assert marks[-1] is None
    assert marks[:-1] == groups(RA, sides(group(records)))
    of = dict(zip((m.norm for m in models[:-1]), marks, strict=False))
    said = {(c.higher, c.lower): c.verdict for c in claims(records) if c.evaluation == RA}
    assert len(said) == 6
    for (higher, lower), verdict in said.items():
        alike = bool(set(of[higher]) & set(of[lower]))
        assert alike == (verdict == "not distinguishable")


def test_letters_over_seeds_differ_from_those_of_the_first_seed():
    """In the first seed AuxBN is 40 images ahead, in the second one 40 behind."""
    records = [make_record("bn", s, ra=100, sa=180) for s in range(2)]
    records += [make_record("auxbn", s, ra=ra, sa=180) for s, ra in enumerate((140, 60))]
    assert mcnemar(bits(100), bits(140)) < 0.001
    assert groups(RA, sides(group([r for r in records if r.seed == 0]))) == ["a", "b"]
    models = group(records)
    assert groups(RA, sides(models)) == ["a", "a"]
    assert group_note(models).endswith(
        "(Clark's min F' test, whose samples are 2 seeds and the images, with Holm's adjustment "
        "for all pairs of the evaluation)."
    )
    table = paired_tests(models)
    assert "summed over seeds" in table.notes[0]
    rows = {row[0]: row[1:] for row in table.rows}
    assert rows[f"{RA}, adversarial branch"] == (
        *("BN", "AuxBN (adv)", "40", "40", "+0.00", "1.000", "1.000", "no"),
    )


def test_tables_of_several_seeds_say_how_their_letters_were_found():
    records = random_records(np.random.default_rng(1), ("bn", "auxbn"), seeds=2)
    records += [make_record("bn", s, adversarial=False) for s in range(2)]
    for table in tables(records)[:2]:
        group_column = table.columns.index("Group")
        control = [row for row in table.rows if row[1] == "BN, plain (control)"]
        assert control
        assert {row[group_column] for row in control} == {None}
        assert table.notes[-1].endswith("pairs of the evaluation; controls are not compared).")


def test_paired_tests_of_networks_side_by_side_are_those_of_their_letters():
    """Six images are p = 2 / 2**6 alone, but the third of six pairs in a table of all branches.

    Before, the test was adjusted for fewer pairs than the letters: rows with one letter differed.
    """
    models = name_models([make_record("auxbn", ra=80), make_record("saauxbn", ra=86)], "ab")
    rows = accuracy_table(models).rows
    marks = {row[1]: row[4] for row in rows if row[0] == RA}
    assert set(marks["AuxBN (adv)"]) & set(marks["SaAuxBN (adv)"])
    pairs = {row[1:3]: row[3:] for row in significance(models).rows if row[0].startswith(RA)}
    assert pairs["AuxBN (adv)", "SaAuxBN (adv)"] == ("0", "6", "-3.00", "0.031", "0.094", "no")
    assert "not distinguishable from AuxBN (adv)" in summary(models, RA, together=True)
    for (one, other), (*_, differ) in pairs.items():
        assert (differ == "no") == bool(set(marks[one]) & set(marks[other]))


def test_models_of_one_seed_have_no_first_one():
    models = group([make_record("bn", 3), make_record("auxbn", 3)])
    assert group_note(models).endswith("adjustment for all pairs of the evaluation).")
    assert "first seed" not in paired_tests(models).notes[0]


def test_models_without_two_seeds_in_common_are_compared_on_the_first_of_each():
    records = [make_record("bn", s, ra=100) for s in (0, 1)]
    records += [make_record("auxbn", s, ra=ra) for s, ra in ((1, 140), (2, 60))]
    models = group(records)
    assert groups(RA, sides(models)) == ["a", "b"]
    assert "first seed of each" in group_note(models)
    (test,) = families(models, [RA])[f"{RA}, adversarial branch"]
    assert (test.first_only, test.second_only, test.n, test.interval) == (0, 40, N, None)
    assert test.p == mcnemar(bits(100), bits(140))


def test_networks_trained_on_clean_images_alone_are_compared_with_each_other():
    records = [
        make_record(norm, s, adversarial=False, ra=ra + s * step)
        for norm, ra, step in (("bn", 60, 1), ("modenorm", 150, 2))
        for s in range(3)
    ]
    assert groups(RA, sides(group(records))) == ["a", "b"]

"""The sentences that sum up a report, where seeds, balls and names of branches differ."""

from dataclasses import replace

import pytest
from record_factory import N, bits, make_record, serving_record

from robustnorm.evaluation.statistics import mcnemar
from robustnorm.records.record import Verdict
from robustnorm.reporting.comparison_page import comparison_page
from robustnorm.reporting.model_records import group
from robustnorm.reporting.side_by_side import accuracy_table, name_models, significance
from robustnorm.reporting.summary import deployment_summary, summary
from robustnorm.reporting.tables import tables

L2 = {"threat_model": "l2", "epsilon": "1/2", "step_size": "1/8"}


def branched(name, robust, protocol=None):
    """A record whose branches have so many correct clean images, and half as many under attack."""
    verdicts = [
        Verdict(attack, rule, branch, branch, bits(count if attack == "none" else count // 2))
        for branch, count in robust.items()
        for attack, rule in (("none", "final"), ("pgd-20", "final"), ("pgd-20", "any"))
    ]
    return make_record("auxbn", name=name, verdicts=verdicts, protocol=protocol or BASE)


BASE = make_record().protocol


def test_models_of_other_balls_have_sentences_of_their_own():
    """The one in the smaller ball is not more robust; before, there was no test, and an error."""
    protocol = BASE | {"branches": {"l2": L2}}
    records = [
        branched("one", {"clean": 180, "adv": 100, "l2": 150}, protocol),
        branched("two", {"clean": 170, "l2": 160}, protocol),
        branched("three", {"clean": 170, "adv": 30}, protocol),
    ]
    models = name_models(records, "abc")
    said = summary(models)
    assert mcnemar(bits(50), bits(15)) < 0.001
    assert said.startswith(
        "AuxBN, one (adv) has the highest robust accuracy under PGD-20 (Linf, epsilon 8/255), 25.00"
    )
    assert (
        "its lead over every other model exceeds chance. AuxBN, two (l2) classifies 40.00" in said
    )
    assert said.endswith("of the images correctly under PGD-20 (L2, epsilon 1/2).")
    page, _ = comparison_page(models, title="three", command="none")
    assert "<dd>Linf, ε = 8/255, step 2/255; branch l2: L2, ε = 1/2, step 1/8</dd>" in page


def test_serving_rules_of_other_balls_have_sentences_of_their_own():
    """The adv branch is attacked in L2; the clean branch and the rule over both are in Linf.

    There images 2 to 49 withstand the rule's own attack (50, 60 shifted by 2), and 2 to 19 that on
    the clean branch (20, 30 shifted by 2); in L2 images 1 to 79 that on adv (80, 84 shifted by 1).
    """
    record = serving_record(protocol=BASE | {"branches": {"adv": L2}})
    assert deployment_summary(tables([record])[-1], group([record])) == (
        "If it is not known which images are attacked (Linf, epsilon 8/255), the most robust "
        "choice is AuxBN, mean logits: deployed RA 24.00 % at SA 93.00 %. The highest SA is "
        "95.00 %, with AuxBN, always clean, whose deployed RA is 9.00 %. If it is not known which "
        "images are attacked (L2, epsilon 1/2), the most robust choice is AuxBN, always adv: "
        "deployed RA 39.50 % at SA 85.00 %, which is also the highest SA."
    )


@pytest.mark.parametrize(
    ("first", "said"),
    [
        (60, "first seed its lead over AuxBN (adv) does not exceed chance"),  # it is far behind
        (99, "first seed its lead over AuxBN (adv) does not exceed chance"),
        (140, "first seed its lead over AuxBN (adv) exceeds chance"),
    ],
)
def test_lead_is_tested_on_the_first_seeds_where_they_have_only_one_in_common(first, said):
    records = [
        make_record("bn", seed=0, ra=first),
        make_record("bn", seed=1, ra=190 - first // 4),
        make_record("auxbn", seed=0, ra=100),
        make_record("auxbn", seed=2, ra=80),
    ]
    mean = 100 * (first + 190 - first // 4) / (2 * N)
    found = summary(group(records))
    assert found.startswith(f"BN has the highest robust accuracy under PGD-20, {mean:.2f} %")
    assert said in found


@pytest.mark.parametrize(
    ("robust", "said"),
    [
        ((140, 100), "its lead over AuxBN (adv) does not exceed chance"),  # 40 and 0 ahead
        ((140, 139), "its lead over AuxBN (adv) exceeds chance"),
    ],
)
def test_lead_over_several_seeds_is_tested_on_all_of_them(robust, said):
    """The first seed alone is far ahead; a control, of another spread, is not compared."""
    records = [make_record("bn", seed=seed, ra=ra) for seed, ra in enumerate(robust)]
    records += [make_record("auxbn", seed=seed, ra=100) for seed in range(2)]
    records += [make_record("bn", seed=seed, adversarial=False, ra=5) for seed in range(2)]
    assert mcnemar(bits(140), bits(100)) < 0.001
    assert f"; over 2 seeds and the test images {said}." in summary(group(records))


def test_one_norm_of_several_seeds_is_not_compared_with_its_control():
    records = [make_record("bn", seed, adversarial) for seed in (0, 1) for adversarial in (0, 1)]
    assert summary(group(records)) == (
        "BN has the highest robust accuracy under PGD-20, 40.00 % [33.46, 46.92]."
    )


def test_no_model_leads_where_none_classifies_an_image():
    """Before, the first one had the highest accuracy, 0 %, and a lead over the others."""
    records = [make_record("bn", ra=0), make_record("modenorm", ra=0)]
    assert summary(group(records)) == (
        "No model classifies any image correctly under PGD-20: 0.00 % [0.00, 1.88]."
    )
    assert summary(group(records[:1])).startswith("BN classifies 0.00 %")


def test_first_branch_is_the_clean_one_whatever_its_name():
    models = name_models(
        [
            branched("one", {"clean": 180, "adv": 100}),
            branched("two", {"nat": 140, "pgd": 90}),
            branched("three", {"pgd": 80, "clean": 150}),
        ],
        "abc",
    )
    rows = {row[:3]: row[3:5] for row in significance(models).rows}
    one, two, three = ("AuxBN, one", "AuxBN, two", "AuxBN, three")
    assert rows["SA, clean branch", f"{one} (clean)", f"{two} (nat)"] == ("40", "0")
    assert rows["SA, clean branch", f"{two} (nat)", f"{three} (clean)"] == ("0", "10")
    assert rows["RA, PGD-20, adversarial branch", f"{two} (pgd)", f"{three} (pgd)"] == ("5", "0")


def test_radii_that_differ_by_rounding_are_one_ball():
    """8/255 in float32, as a tensor gives it, is compared with 8/255, and shares its letters."""
    rounded = BASE | {"epsilon": "0.0313725508749485"}
    records = [make_record("bn", name="a"), make_record("bn", name="b", protocol=rounded)]
    models = name_models(records, "ab")
    assert [row[0] for row in significance(models).rows] == ["SA", "RA, PGD-20"]
    assert {row[4] for row in accuracy_table(models).rows} == {"a"}
    assert summary(models).endswith("it is not distinguishable from BN, b.")


def test_page_names_no_seed_of_networks_from_elsewhere():
    given = make_record("mine", name="mine")
    given = replace(given, checkpoint=given.checkpoint | {"given": "Net", "tag": "given"})
    page, _ = comparison_page(
        name_models([given, make_record("bn", seed=7)], "ab"), title="two", command="none"
    )
    rows = page[page.index('aria-label="Runs"') :].split("<tbody>")[1:3]
    seeds = [row.split("<td")[1].split(">")[1].split("<")[0] for row in rows]
    assert seeds == ["–", "7"]

"""Sentences and tables that read records whose verdicts are known."""

import numpy as np
import pytest
import record_factory
from scipy.stats import binomtest

from robustnorm.records.record import SINGLE, Verdict
from robustnorm.reporting.plans import orderings, plan_page, provenance_text
from robustnorm.reporting.readme import show_results
from robustnorm.reporting.tables import write_tables
from robustnorm.system.errors import UsageError

N = 400


def bits(correct, shift=0):
    return np.roll(np.arange(N) < correct, shift)


def make_record(norm="auxbn", seed=0, tag="best", sa=300, ra=150, autoattack=None, **changes):
    """Clean and adversarial branch alike, so that a number says which attack it is of."""
    verdicts = []
    for branch in ("clean", "adv") if norm in ("auxbn", "saauxbn") else (SINGLE,):
        accuracies = {"none": sa, "pgd-10": ra + 1, "pgd-20": ra} | (
            {} if autoattack is None else {"autoattack": autoattack}
        )
        for attack, correct in accuracies.items():
            verdicts.append(Verdict(attack, "final", branch, branch, bits(correct)))
            if attack.startswith("pgd"):
                verdicts.append(Verdict(attack, "any", branch, branch, bits(correct)))
    if norm in ("auxbn", "saauxbn"):
        for attacker, scorer in (("clean", "adv"), ("adv", "clean")):
            verdicts.append(Verdict("pgd-20", "final", attacker, scorer, bits(100)))
    content = {
        "name": "fast",
        "checkpoint": {"tag": tag, "epoch": 2, "epochs": 2, "sha256": "ab"},
        "history": [
            {"seconds": 3000.0, "validation_seconds": 600.0, "device": "GPU one"},
            {"seconds": 3000.0, "device": "GPU two"},
        ],
        "dataset": {
            "name": "CIFAR-10",
            "sha256": "ef",
            "classes": ["0", "1"],
            "train_images": 45_000,
            "test_images": 1000,
        },
        "image_ids": list(range(N)),
        "labels": [i % 2 for i in range(N)],
        "verdicts": verdicts,
        "versions": {"robustnorm": "0.1", "torch": "2.11", "commit": "1234abcd"},
        "device": "GPU one",
        "wall_seconds": 90.0,
    }
    return record_factory.make_record(norm, seed, **(content | changes))


def four(**accuracies):
    """One record of each of the paper's norms; each gets its robust images by name."""
    return [make_record(norm, ra=ra) for norm, ra in accuracies.items()]


def line(records, evaluation):
    (found,) = (text for text in orderings(records) if text.startswith(f"**{evaluation}"))
    return found


def test_orderings_have_a_line_for_each_evaluation_of_the_paper():
    records = four(bn=100, modenorm=100, auxbn=100, saauxbn=100)
    assert [text.split("**")[1] for text in orderings(records)] == [
        "SA, clean branch",
        "SA, adv branch",
        "RA, PGD-10, adv branch",
        "RA, PGD-20, adv branch",
    ]
    assert "in the paper SaAuxBN > ModeNorm > AuxBN > BN\n" in line(records, "RA, PGD-20")
    assert "in the paper BN > SaAuxBN > AuxBN > ModeNorm\n" in line(records, "SA, adv")


def test_pairs_are_sorted_by_what_the_test_says():
    # Nested verdicts: the images that differ are the difference of the counts, all won by one.
    said = line(four(bn=190, modenorm=151, auxbn=150, saauxbn=230), "RA, PGD-20")
    parts = dict(part.split(": ") for part in said.split("\n  - ")[1:])
    assert "SaAuxBN 57.50 and BN 47.50" in parts["as in the paper"]
    assert "SaAuxBN 57.50 and ModeNorm 37.75" in parts["as in the paper"]
    assert "ModeNorm 37.75 and BN 47.50" in parts["the other way"]
    assert "AuxBN 37.50 and BN 47.50" in parts["the other way"]
    assert "ModeNorm 37.75 and AuxBN 37.50" in parts["within noise"]
    assert sum(part.count("(p ") for part in parts.values()) == 6


def test_p_is_that_of_the_exact_test_adjusted_by_holm():
    # AuxBN wins 8 images of 8 against BN, SaAuxBN 15 of 15 against BN and 7 of 7 against AuxBN.
    said = line(four(bn=100, auxbn=108, saauxbn=115), "RA, PGD-20")
    ascending = [binomtest(k, k, 0.5).pvalue for k in (15, 8, 7)]
    adjusted = [3 * ascending[0], 2 * ascending[1], ascending[2]]
    for names, p in zip(("SaAuxBN 28.75 and BN 25.00", "AuxBN 27.00 and BN 25.00",
                         "SaAuxBN 28.75 and AuxBN 27.00"), adjusted, strict=True):  # fmt: skip
        assert f"{names} (" + (f"p = {p:.3f})" if p >= 0.001 else "p < 0.001)") in said


def test_difference_that_only_one_test_would_call_significant_is_noise_among_six():
    one = line(four(bn=100, auxbn=106), "RA, PGD-20")
    assert "as in the paper: AuxBN" in one  # p = 0.031
    six = line(four(bn=100, modenorm=106, auxbn=106, saauxbn=106), "RA, PGD-20")
    assert "as in the paper:" not in six


def test_seeds_are_averaged_and_their_agreement_is_counted():
    records = [make_record("auxbn", seed=seed, ra=ra) for seed, ra in enumerate((200, 200, 140))]
    records += [make_record("bn", seed=seed, ra=150) for seed in (0, 1, 2)]
    said = line(records, "RA, PGD-20")
    assert "seeds disagree: AuxBN 45.00 and BN 37.50" in said  # though the first alone is clear
    assert "as in the paper in 2 of 3 seeds" in said


@pytest.mark.parametrize(("second", "kind"), [(150, "as in the paper"), (140, "seeds disagree")])
def test_seed_without_a_difference_agrees_with_any(second, kind):
    """Also the other way round: 200 and 150 images, then 150 and ``second``."""
    records = [make_record("auxbn", seed=s, ra=ra) for s, ra in enumerate((200, second))]
    records += [make_record("bn", seed=s, ra=150) for s in (0, 1)]
    assert f"{kind}: AuxBN" in line(records, "RA, PGD-20")
    swapped = [make_record("bn", seed=s, ra=ra) for s, ra in enumerate((200, second))]
    swapped += [make_record("auxbn", seed=s, ra=150) for s in (0, 1)]
    kind = kind.replace("as in the paper", "the other way")
    assert f"{kind}: AuxBN" in line(swapped, "RA, PGD-20")


def test_seeds_that_only_one_norm_has_are_left_out():
    records = [make_record("auxbn", seed=0, ra=200), make_record("auxbn", seed=1, ra=0)]
    records += [make_record("bn", seed=0, ra=100)]
    assert "AuxBN 50.00 and BN 25.00 (p < 0.001)" in line(records, "RA, PGD-20")


def test_control_has_no_place_in_the_paper():
    records = [make_record("auxbn"), make_record("bn", adversarial=False, ra=0)]
    assert all("nothing to compare" in text for text in orderings(records))


def test_reading_sets_best_against_later_checkpoints():
    evaluations = {
        "best": [make_record("bn", tag="best", sa=320, ra=200)],
        "last": [make_record("bn", tag="last", sa=340, ra=160)],
    }
    text = plan_page("fast", evaluations)
    row = next(row for row in text.splitlines() if "RA, PGD-20" in row and row.startswith("|"))
    assert [cell.strip() for cell in row.split("|")[1:-1]] == [
        "BN", "last", "RA, PGD-20", "50.00", "40.00", "-10.00",
    ]  # fmt: skip
    assert "+5.00" in text  # standard accuracy: 80 to 85


def test_best_of_the_same_images_is_set_against_last_wherever_it_stands():
    other = make_record("bn", image_ids=list(range(1, N + 1)))
    evaluations = {
        "autoattack": [other],
        "best": [make_record("bn", ra=200)],
        "last": [make_record("bn", tag="last", ra=160)],
    }
    assert "-10.00" in plan_page("fast", evaluations)


def test_best_of_other_images_is_not_set_against_last():
    evaluations = {
        "best": [make_record("bn", image_ids=list(range(1, N + 1)))],
        "last": [make_record("bn", tag="last")],
    }
    assert "Best against later" not in plan_page("fast", evaluations)


def test_reading_says_what_autoattack_leaves_on_each_branch():
    evaluations = {"best": [make_record()], "autoattack": [make_record(ra=160, autoattack=140)]}
    rows = [row for row in plan_page("fast", evaluations).splitlines() if "-5.00" in row]
    assert [row.split("|")[1].strip() for row in rows] == ["AuxBN (clean)", "AuxBN (adv)"]
    assert all("40.00" in row and "35.00" in row for row in rows)
    # What withstands all of it: the other branch's images leave 100 of 400.
    assert [row.split("|")[7].strip() for row in rows] == ["25.00", "25.00"]


def test_provenance_names_data_devices_time_and_source():
    text = provenance_text([make_record(), make_record("bn")])
    assert "CIFAR-10, 45,000 training images, n = 400 test images" in text
    assert "2 runs, trained in 3:40 h on GPU one, GPU two" in text
    assert "evaluated in 0:03 h on GPU one" in text
    assert "commit 1234abcd" in text


def test_readme_shows_rows_of_the_tables_and_keeps_the_rest(tmp_path):
    records = four(bn=100, modenorm=110, auxbn=120, saauxbn=130)
    write_tables(records, tmp_path)
    readme = tmp_path / "README.md"
    second = "<!-- reports/digits -->\nother\n<!-- end -->"
    readme.write_text(f"# Title\n\n<!-- reports/old -->\n| old |\n<!-- end -->\n\nText\n{second}\n")
    show_results(readme, "fast/best", records)
    text = readme.read_text()
    start, end = "# Title\n\n<!-- reports/fast/best -->\n", f"\n<!-- end -->\n\nText\n{second}\n"
    assert text.startswith(start)
    assert text.endswith(end)
    shown = text.removeprefix(start).removesuffix(end)
    assert provenance_text(records) in shown
    rows = [row for row in shown.splitlines() if row.startswith("|")]
    assert sum("SaAuxBN" in row for row in rows) == 4
    assert set(rows) <= set((tmp_path / "tables.md").read_text().splitlines())


def test_readme_without_a_block_is_left_as_it_is(tmp_path):
    readme = tmp_path / "README.md"
    readme.write_text("# Title\n")
    with pytest.raises(UsageError, match="has no block of results; add the lines"):
        show_results(readme, "fast/best", four(bn=100))
    assert readme.read_text() == "# Title\n"


def test_readme_keeps_its_line_ends(tmp_path):
    readme = tmp_path / "README.md"
    readme.write_bytes(b"# Title\r\n<!-- reports/old -->\r\nold\r\n<!-- end -->\r\nText\r\n")
    show_results(readme, "fast/best", four(bn=100))
    content = readme.read_bytes()
    assert content.count(b"\n") == content.count(b"\r\n") > 10
    assert content.startswith(b"# Title\r\n<!-- reports/fast/best -->\r\nData")
    assert content.endswith(b"<!-- end -->\r\nText\r\n")

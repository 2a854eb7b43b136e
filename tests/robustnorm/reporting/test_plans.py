"""Sentences and tables that read records whose verdicts are known."""

import numpy as np
import pytest
import record_factory

from robustnorm.records.parts import Check
from robustnorm.records.record import SINGLE, Verdict
from robustnorm.reporting.claims import claims_text, orders_text
from robustnorm.reporting.plans import plan_page, provenance_text
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


def test_plan_without_two_adversarial_norms_has_nothing_to_compare():
    records = [make_record("auxbn"), make_record("bn", adversarial=False, ra=0)]
    assert "Checkpoint 'best'. Nothing to compare." in plan_page("fast", {"best": records})


@pytest.mark.parametrize("seeds", [1, 2])
def test_claims_and_their_table_need_several_seeds(seeds):
    records = [make_record(norm, s, ra=100 + s) for norm in ("bn", "auxbn") for s in range(seeds)]
    page = plan_page("fast", {"best": records})
    assert claims_text(records) in page
    assert ("## The paper's claims over seeds" in page) == (seeds > 1)


def test_claims_of_another_checkpoint_are_told_where_they_differ():
    def records(tag, lead):
        norms = {"bn": 100, "auxbn": 100 + lead}
        return [make_record(n, s, tag, ra=ra + s) for n, ra in norms.items() for s in range(2)]

    few = [make_record("bn", image_ids=list(range(1, N + 1)))]
    best, same, other = records("best", 0), records("last", 0), records("last", 50)
    assert "'last'." not in plan_page("fast", {"best": best, "last": same, "few": few})
    text = plan_page("fast", {"best": best, "last": other, "few": few})
    assert f"Checkpoint 'last'. {orders_text(other)}\n\n## " in text
    assert text.count("Checkpoint ") == 2


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
    assert "on held-out training images. A drop" in text
    evaluations["best"] = [make_record("bn", config={"validation": 300})]
    text = plan_page("fast", evaluations)
    assert "on 300 held-out training images (standard error at most 2.9 points). A drop" in text


def test_first_adversarial_branch_stands_for_the_others_if_none_is_called_adv():
    def record(tag, ra):
        branches = {"linf": ra, "clean": 0, "l2": 300}
        verdicts = [
            Verdict(attack, "final", branch, branch, bits(correct))
            for branch, correct in branches.items()
            for attack in ("none", "pgd-10", "pgd-20")
        ]
        return make_record("auxbn", tag=tag, verdicts=verdicts)

    page = plan_page("fast", {"best": [record("best", 200)], "last": [record("last", 160)]})
    row = next(row for row in page.splitlines() if "RA, PGD-20" in row and row.startswith("|"))
    assert [cell.strip() for cell in row.split("|")[1:-1]] == [
        "AuxBN (linf)", "last", "RA, PGD-20", "50.00", "40.00", "-10.00",
    ]  # fmt: skip


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


def test_checks_that_are_not_reliable_are_listed_with_their_seeds():
    def checks(*verdicts):
        return [
            Check(name, answer, verdict, 0.5 + len(verdict), "% of images; limit 0.2", N)
            for (name, answer), verdict in zip(
                (("FGSM", "adv"), ("Square", "adv"), ("FGSM", "mean logits")), verdicts, strict=True
            )
        ]

    records = [
        make_record("auxbn", 0, checks=checks("reliable", "warn", "reliable")),
        make_record("auxbn", 1, checks=checks("reliable", "unreliable", "warn")),
        make_record("bn", 0, checks=[Check("FGSM", SINGLE, "warn", 0.25, "%", N)]),
    ]
    page = plan_page("fast", {"best": records})
    lines = page.partition("## Checks that do not find an evaluation reliable")[2].splitlines()
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines if "best" in line]
    assert rows == [
        ["best", "BN", "FGSM", "warn", "1 of 1", "0.25", "%"],
        ["best", "AuxBN (adv)", "Square", "unreliable", "1 of 2", "10.5", "% of images; limit 0.2"],
        ["best", "AuxBN (adv)", "Square", "warn", "1 of 2", "4.5", "% of images; limit 0.2"],
        ["best", "AuxBN (mean logits)", "FGSM", "warn", "1 of 2", "4.5", "% of images; limit 0.2"],
    ]
    assert "- Of 7 verdicts of checks on branches and serving rules; the others are" in page
    assert "## Checks" not in plan_page("fast", {"best": [make_record()]})

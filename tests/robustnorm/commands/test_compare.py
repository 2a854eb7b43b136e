"""Any evaluated networks in one table and one page, or refused in one sentence."""

import re
from dataclasses import replace
from html import unescape

import pytest
import torch
from record_factory import N, bits, make_full_record, make_record
from torch import nn

from robustnorm import cli, evaluate
from robustnorm.data.digits import load_digits
from robustnorm.evaluation.statistics import holm, mcnemar
from robustnorm.records.record import Record, Verdict
from robustnorm.reporting.side_by_side import (
    accuracy_table,
    check_table,
    name_models,
    significance,
)
from robustnorm.runs import Run
from robustnorm.runs.checkpoint import save_checkpoint
from robustnorm.runs.described import describe_dataset
from robustnorm.settings.config import Config
from robustnorm.system.errors import Status


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def save(record, path):
    record.save(path)
    return str(path)


def refused(capsys, *words):
    status = cli.main(["compare", *words])
    (line,) = capsys.readouterr().err.splitlines()
    return status, line


def foreign(record):
    """The same record as of weights that other code trained."""
    origin = {"file": "wrn.pt", "sha256": "12", "layout": "plain"}
    return replace(record, checkpoint=record.checkpoint | {"imported": origin})


def test_own_imported_and_given_networks_share_a_table_a_page_and_tests(place, capsys):
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(12, 1000)).eval()
    images, labels = torch.rand(20, 3, 2, 2), torch.arange(20)
    given = evaluate(network, images, labels, name="mine", threat_model="l2", epsilon=0.5)
    as_given = replace(
        make_record("bn"),
        dataset=given.record.dataset,
        protocol=make_record().protocol | {"threat_model": "l2", "epsilon": "1/2"},
        image_ids=given.record.image_ids,
        labels=given.record.labels,
        verdicts=[replace(v, correct=v.correct[:20]) for v in make_record("bn").verdicts],
    )
    words = [
        save(as_given, place / "reports/own/records/bn-seed0-best.json"),
        save(foreign(as_given), place / "wrn 28.json"),
        str(given.save(place / "mine.json")),
    ]
    assert cli.main(["compare", *words, "--name", "both"]) == Status.DONE
    text = capsys.readouterr().out
    for said in ("BN", "wrn.pt", "mine", "RA, PGD-20", "Paired tests", "L2, epsilon 1/2"):
        assert said in text
    folder = place / "reports" / "both"
    page = (folder / "report.html").read_text()
    assert "<h1>both: networks side by side</h1>" in page
    said = unescape(page).replace(f"{place}/", "")
    assert "robustnorm compare reports/own/records/bn-seed0-best.json 'wrn 28.json' " in said
    assert "mine.json --name both" in said
    assert cli.main(["compare", words[0], "--name=best", "--reports=out"]) == Status.DONE
    said = unescape((place / "out/best/report.html").read_text())
    assert "records/bn-seed0-best.json --name best --reports out</pre>" in said
    assert {"comparison.md", "comparison.csv", "paired-tests.csv"} <= {
        path.name for path in folder.iterdir()
    }


def test_rows_and_tests_are_those_of_the_verdicts():
    records = [
        make_record("bn", sa=180, ra=80),
        foreign(make_record("bn", sa=150, ra=80, shift=40)),
    ]
    models = name_models(records, ["a", "b"])
    accuracy = {row[:2]: row for row in accuracy_table(models).rows}
    assert accuracy["SA", "BN"][2] == 180 / N
    assert accuracy["SA", "wrn.pt"][2] == 150 / N
    assert [accuracy["SA", name][4] for name in ("BN", "wrn.pt")] == ["a", "b"]
    rows = significance(models).rows
    assert [row[0] for row in rows] == ["SA", "RA, PGD-20"]
    p = mcnemar(bits(80), bits(80, 40))
    assert rows[1][3:8] == ("40", "40", "+0.00", f"{p:.3f}", f"{holm([p])[0]:.3f}")


def test_branches_are_rows_and_only_shared_evaluations_are_shown():
    record = make_record("auxbn")
    worst = [Verdict("worst", "final", b, b, bits(50)) for b in record.branches]
    models = name_models(
        [replace(record, verdicts=[*record.verdicts, *worst]), make_record("bn")], ["a", "b"]
    )
    table = accuracy_table(models)
    assert {row[1] for row in table.rows} == {"AuxBN (clean)", "AuxBN (adv)", "BN"}
    assert not any("worst" in str(row[0]) for row in table.rows)
    both = name_models(
        [replace(record, name=n, verdicts=[*record.verdicts, *worst]) for n in "ab"], ["a", "b"]
    )
    assert "RA, worst case" in [row[0] for row in accuracy_table(both).rows]
    assert "RA, worst" not in [row[0] for row in accuracy_table(both).rows]


def with_attacks(name, **counts):
    """A record of BN with the verdicts of further attacks, which leave so many images."""
    further = [Verdict(a, "final", "single", "single", bits(n)) for a, n in counts.items()]
    record = make_record("bn", name=name)
    return replace(record, verdicts=[*record.verdicts, *further])


def test_worst_case_counts_the_attacks_that_all_have():
    records = [with_attacks("a", worst=60, autoattack=40), with_attacks("b", worst=58)]
    models = name_models(records, ["a", "b"])
    table = accuracy_table(models)
    worst = {row[1]: row[2] for row in table.rows if row[0] == "RA, worst case"}
    assert worst == {"BN, a": 60 / N, "BN, b": 58 / N}
    (row,) = (row for row in significance(models).rows if "worst" in row[0])
    assert row[3:5] == ("2", "0")
    assert any("everything that every network was attacked with" in note for note in table.notes)
    same = name_models([with_attacks(n, worst=60, autoattack=40) for n in "ab"], ["a", "b"])
    assert {row[2] for row in accuracy_table(same).rows if row[0] == "RA, worst case"} == {40 / N}


def test_worst_cases_over_different_attacks_are_not_compared():
    models = name_models([with_attacks("a", worst=60), with_attacks("b", fgsm=75)], ["a", "b"])
    table = accuracy_table(models)
    assert not any("worst" in row[0] for row in [*table.rows, *significance(models).rows])
    assert not any(note.startswith("Worst case") for note in table.notes)


def test_notes_name_how_each_record_was_searched():
    slow = make_record("bn", name="b")
    slow = replace(slow, protocol=slow.protocol | {"search": "folded, fp32"})
    notes = accuracy_table(name_models([make_record("bn", name="a"), slow], ["a", "b"])).notes
    (note,) = (note for note in notes if note.startswith("Gradients come"))
    assert "of each branch (BN, a: folded, bf16, BN, b: folded, fp32), every" in note


@pytest.mark.parametrize(
    ("changes", "names"),
    [
        ([{"name": "one"}, {"name": "two"}], ["BN, one", "BN, two"]),
        ([{"seed": 1}, {"seed": 2}], ["BN, test, seed 1", "BN, test, seed 2"]),
        ([{}, {}], ["BN, a", "BN, b"]),
    ],
)
def test_names_are_the_shortest_that_differ(changes, names):
    models = name_models([make_record("bn", **change) for change in changes], ["a", "b"])
    assert [model.name for model in models] == names


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"dataset": make_record().dataset | {"sha256": "99"}}, "verdicts on the same images"),
        ({"image_ids": list(range(1, N + 1))}, "verdicts on the same images"),
        ({"labels": [0] * N}, "verdicts on the same images"),
        ({"protocol": make_record().protocol | {"epsilon": "4/255"}}, "epsilon 4/255"),
        ({"protocol": make_record().protocol | {"threat_model": "l2"}}, "L2, epsilon 8/255"),
    ],
)
def test_records_of_other_images_or_another_attack_are_refused(changes, reason, place, capsys):
    one = save(make_record("bn"), place / "one.json")
    other = save(make_record("auxbn", **changes), place / "other.json")
    status, line = refused(capsys, one, other)
    assert status == Status.REFUSED
    assert reason in line
    assert "BN" in line
    assert "AuxBN" in line
    assert line.endswith(("--test_limit", "--step_size"))


def make_run(folder, name):
    config = Config(norm="bn", name=name).to_dict()
    dataset = describe_dataset(load_digits(), 100)
    manifest = {"epoch": 0, "config": config, "dataset": dataset, "history": []}
    save_checkpoint(folder, "best", nn.Linear(1, 1), manifest)


def test_run_is_found_by_its_folder_and_named_when_not_evaluated(place, capsys):
    folder = place / "checkpoints/small/bn-seed0"
    make_run(folder, "small")
    status, line = refused(capsys, str(folder))
    assert status == Status.USAGE
    assert "evaluate it first, with robustnorm eval --name small" in line
    path = place / "reports/small/records/bn-seed0-best.json"
    save(make_record("bn"), path)
    assert "evaluate it first" in refused(capsys, str(folder))[1]  # of other weights
    checkpoint = make_record().checkpoint | {"sha256": Run.open(folder).sha256}
    save(make_record("bn", checkpoint=checkpoint), path)
    assert cli.main(["compare", str(folder)]) == Status.DONE
    assert Record.load(path).n == N


def test_run_of_a_campaign_is_found_where_it_was_evaluated(place, capsys):
    folder = place / "checkpoints/plan/bn-seed0"
    make_run(folder, "plan")
    checkpoint = make_record().checkpoint | {"sha256": Run.open(folder).sha256}
    first, second = (place / f"reports/plan/{t}/records/bn-seed0-best.json" for t in ("all", "few"))
    save(make_record("bn", checkpoint=checkpoint), first)
    assert cli.main(["compare", str(folder)]) == Status.DONE
    capsys.readouterr()
    save(make_record("bn", checkpoint=checkpoint), second)
    status, line = refused(capsys, str(folder))
    assert status == Status.USAGE
    assert line.endswith(
        "several result records: name one of reports/plan/all/records/bn-seed0-best.json, "
        "reports/plan/few/records/bn-seed0-best.json"
    )


def test_checks_that_are_not_reliable_are_named(place, capsys):
    checked = make_full_record("auxbn")  # Square warns on every branch
    words = [save(checked, place / "one.json"), save(make_record("bn"), place / "two.json")]
    assert cli.main(["compare", *words]) == Status.DONE
    rows = {row[0]: row[1:] for row in check_table(name_models([checked], ["a"])).rows}
    assert rows["AuxBN (adv)"] == ("2", "warn", "Square: warn")
    text = capsys.readouterr().out
    assert re.search(r"AuxBN \(clean\) +2 +warn +Square: warn", text)
    assert re.search(r"BN +0 +not run", text)


def test_tables_of_an_earlier_comparison_in_the_folder_go(place):
    one, two = (save(make_record(norm), place / f"{norm}.json") for norm in ("bn", "auxbn"))
    folder = place / "reports" / "comparison"
    for words, names in (
        ([one], {"accuracy", "checks"}),
        ([one, two], {"comparison", "paired-tests", "checks"}),
        ([one], {"accuracy", "checks"}),
    ):
        assert cli.main(["compare", *words]) == Status.DONE
        assert {path.stem for path in folder.glob("*.csv")} == names


def test_nothing_to_compare_says_what_to_give(capsys):
    status, line = refused(capsys)
    assert status == Status.USAGE
    assert "compare needs what to compare" in line
    assert "no result records in nowhere" in refused(capsys, "nowhere")[1]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["."], "there are no result records in ."),
        (["mine.yaml"], "if robustnorm eval wrote it, remove it and evaluate again, else name"),
        ([".", "--checkpoint", "../x"], "checkpoint must be best, last, or epoch and a number"),
    ],
)
def test_what_is_no_record_is_refused_without_advice_to_remove_it(place, capsys, words, message):
    (place / "mine.yaml").write_text("epochs: 3")
    assert message in refused(capsys, *words)[1]


def test_run_of_another_command_is_not_advised_to_be_removed(place, capsys):
    folder = place / "checkpoints/table1/sngan-ccbn-seed0"
    dataset = describe_dataset(load_digits(), 100)
    manifest = {"step": 2, "config": {"norm": "ccbn"}, "dataset": dataset}
    save_checkpoint(folder, "best", nn.Linear(1, 1), manifest)
    status, line = refused(capsys, str(folder))
    assert status == Status.REFUSED
    assert "is not a run of robustnorm train or import" in line
    assert "remove" not in line

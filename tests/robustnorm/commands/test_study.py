"""The studies, from the command line to their files, on small networks."""

import csv
from pathlib import Path

import numpy as np
import pytest
import yaml
from small_runs import TRAINING

from robustnorm import cli, evaluate
from robustnorm.data import load_dataset
from robustnorm.data.dataset import subset
from robustnorm.evaluation import evaluate as evaluation
from robustnorm.records.record import Record
from robustnorm.runs.run import load_model
from robustnorm.studies import variants as module
from robustnorm.studies.swap import swapped

SMALL = {
    "data": "digits",
    **TRAINING,
    "test_limit": 30,
    "study_batches": 2,
    "study_images": 20,
    "device": "cpu",
    "checks": "none",
}


@pytest.fixture(scope="module")
def trained(tiny, tmp_path_factory):
    """A folder with an AuxBN, a ModeNorm and a BN network."""
    place = tmp_path_factory.mktemp("study")
    (place / "study.yaml").write_text(yaml.safe_dump(SMALL))
    settings = {key: value for key, value in SMALL.items() if not key.startswith("study")}
    (place / "train.yaml").write_text(yaml.safe_dump(settings))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        for norm in ("auxbn", "modenorm"):
            words = ("train", "--config", "train.yaml", "--name", "study", "--norm", norm)
            assert cli.main(words) == 0
    return place


@pytest.fixture
def place(trained, monkeypatch):
    monkeypatch.chdir(trained)
    return trained


def run(*words, status=0):
    assert cli.main(("study", "--config", "study.yaml", *words)) == status


def rows(name):
    return list(csv.DictReader(Path(f"reports/study/{name}.csv").read_text().splitlines()))


def percent(value):
    return f"{100 * value:.2f}"


def test_swap_attacks_and_scores_each_swapped_network(place, capsys):
    run("--what", "swap")
    assert "n = 30 of 500 test images" in capsys.readouterr().out
    found = {(row["Statistics"], row["Affine"]): row for row in rows("swap")}
    model, _ = load_model(place / "checkpoints/study/auxbn-seed0")
    ids, test = subset(load_dataset("digits", root=place).test, 30)
    pairs = [(i, j) for i in ("clean", "adv") for j in ("clean", "adv")]
    assert list(found) == pairs
    for statistics, affine in pairs:
        network = swapped(model, statistics=statistics, affine=affine)
        verdicts = evaluate(
            network,
            test.images,
            test.labels,
            epsilon=3 / 16,
            step_size=3 / 64,
            steps=(20,),
            image_ids=ids,
            attacks=["worst"],
        )
        expected = {(v.attack, v.rule): percent(v.accuracy) for v in verdicts}
        row = found[statistics, affine]
        assert row["SA %"] == expected["none", "final"]
        assert row["RA, PGD-20 %"] == expected["pgd-20", "final"]
        assert row["Any %"] == expected["pgd-20", "any"]
        withstood = np.logical_and.reduce([v.correct for v in verdicts])
        assert row["Worst %"] == percent(withstood.mean())


def test_reestimation_prints_accuracy_and_drift_of_each_branch(place, capsys):
    run("--what", "reestimate")
    shown = capsys.readouterr().out
    assert "Re-estimated on at most 2 augmented training batches" in shown
    stored = {row["Branch"]: row for row in rows("reestimation") if row["Statistics"] == "stored"}
    record = Record.load(place / "reports/study/records/auxbn-seed0-best.json")
    for branch in ("clean", "adv"):
        accuracy = record.find("pgd-20", "final", branch, branch).accuracy
        assert stored[branch]["RA, PGD-20 %"] == percent(accuracy)
    assert [row["Statistics"] for row in rows("reestimation")] == ["stored", "measured again"] * 2
    drifts = rows("drift")
    assert len(drifts) == 2 * 2  # branches, norm layers
    # One epoch of two batches at momentum 0.1 leaves most of the initial zero and one.
    assert min(float(row["Mean"]) for row in drifts) > 0.01


def test_gates_of_every_layer_are_printed(place, capsys):
    run("--what", "gates")
    assert "On 20 test images" in capsys.readouterr().out
    shares = rows("gates")
    assert len(shares) == 2 * 2  # norm layers, modes
    for first, second in zip(shares[::2], shares[1::2], strict=True):
        for column in ("Clean %", "PGD-20 %"):
            # Two numbers of two decimals each.
            assert float(first[column]) + float(second[column]) == pytest.approx(100, abs=0.011)
    assert {row["Layer"] for row in rows("gate-distance")} == {row["Layer"] for row in shares}


def test_second_study_evaluates_nothing_again(place, capsys, monkeypatch):
    run()
    first = capsys.readouterr().out
    for name in ("Swap", "Re-estimation", "Drift", "Gates"):
        assert f"{name}: " in first
    monkeypatch.setattr(module, "evaluate", None)
    run()
    assert capsys.readouterr().out == first
    assert not list(place.glob("reports/**/*.journal"))


def test_interrupted_study_continues_with_the_network_that_it_was_at(place, capsys, monkeypatch):
    run("--what", "swap", "--eval_seed", "1")
    whole = capsys.readouterr().out
    (place / "reports/study/studies/auxbn-seed0-best-swap.json").unlink()
    evaluated, real = [], module.evaluate

    def interrupted(network, *arguments, **options):
        evaluated.append(network)
        if len(evaluated) == 2:
            raise KeyboardInterrupt
        return real(network, *arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(module, "evaluate", interrupted)
        run("--what", "swap", "--eval_seed", "1", status=130)
    attacks, attack_chunk = [], evaluation.attack_chunk

    def counted(*arguments, **passes):
        attacks.append(arguments)
        return attack_chunk(*arguments, **passes)

    monkeypatch.setattr(evaluation, "attack_chunk", counted)
    capsys.readouterr()
    run("--what", "swap", "--eval_seed", "1")
    # PGD and worst on the second network; the first is in its journal.
    assert len(attacks) == 2
    assert capsys.readouterr().out == whole


def test_record_of_a_study_is_not_verified_against_the_run(place, capsys):
    run("--what", "swap")
    capsys.readouterr()
    assert cli.main(["verify", "reports/study/studies/auxbn-seed0-best-swap.json"]) == 2
    error = capsys.readouterr().err
    assert "is of the study swap, whose networks are derived" in error
    assert error.count("\n") == 1


def test_other_batches_are_another_study(place, capsys):
    run("--what", "reestimate")
    capsys.readouterr()
    run("--what", "reestimate", "--study_batches", "1")
    assert "reestimate: evaluated before" not in capsys.readouterr().err


def test_study_that_suits_no_network_says_which_would(place, capsys):
    run("--what", "swap", "--norm", "bn", "--name", "other", status=2)
    assert "no checkpoint 'best' fits" in capsys.readouterr().err
    words = ("train", "--config", "train.yaml", "--name", "other", "--norm", "bn")
    assert cli.main(words) == 0
    run("--what", "swap", "--name", "other", status=2)
    assert "none of the networks that fit this config (bn)" in capsys.readouterr().err

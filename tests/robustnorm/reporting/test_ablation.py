"""The grid from records whose counts are known."""

import numpy as np
import pytest
from torch import nn

from robustnorm.evaluation.statistics import wilson
from robustnorm.norms import NORMS
from robustnorm.records.record import SINGLE, Record, Verdict
from robustnorm.reporting.ablation import GRID, ablation_table

N = 100
SA = {"bn": 50, "ccbn": 60, "sabn": 61, "auxstatbn": 70, "auxbn": 80, "saauxbn": 90}


def make_record(norm, seed=0, **changes):
    branches = (SINGLE,) if norm == "bn" else ("clean", "adv")
    # The adv branch classifies ten clean images fewer than the clean branch.
    own = [
        Verdict(attack, rule, branch, branch, np.arange(N) < SA[norm] - 10 * row - 20 * attacked)
        for row, branch in enumerate(branches)
        for attacked, (attack, rule) in enumerate(
            [("none", "final"), ("pgd-20", "final"), ("pgd-20", "any")]
        )
    ]
    content = dict.fromkeys(Record.__dataclass_fields__, "")
    content |= {
        "norm": norm,
        "seed": seed,
        "adversarial": True,
        "checkpoint": {"tag": "best", "epoch": 1, "epochs": 1},
        "config": {"width": 4, "network": "resnet18", "precision": "fp32", "train_steps": 1},
        "dataset": {"name": "images", "sha256": "", "train_images": 5, "test_images": N},
        "image_ids": list(range(N)),
        "protocol": {
            "name": "short",
            "threat_model": "linf",
            "epsilon": "8/255",
            "step_size": "2/255",
            "precision": "fp32",
            "search": "folded, fp32",
        },
        "verdicts": own,
    }
    return Record(**content | changes)


def test_grid_names_the_norm_of_each_cell():
    for (statistics, affine), norm in GRID.items():
        layer = NORMS[norm](3, ("clean", "adv"))
        if norm == "bn":
            assert type(layer) is nn.BatchNorm2d
            assert (statistics, affine) == ("shared", "shared")
        else:
            assert (layer.statistics, layer.affine) == (statistics, affine)


def test_grid_holds_accuracies_and_intervals():
    table = ablation_table([make_record(norm) for norm in GRID.values()])
    cells = {row[:2]: row[2:] for row in table.rows}
    for evaluation, drop in (("SA, clean branch", 0), ("SA, adv branch", 10)):
        for statistics, norms in (
            ("shared", ("bn", "ccbn", "sabn")),
            ("split", ("auxstatbn", "auxbn", "saauxbn")),
        ):
            found = cells[evaluation, statistics]
            for place, norm in enumerate(norms):
                correct = SA[norm] - drop * (norm != "bn")
                assert found[3 * place : 3 * place + 2] == (correct / N, wilson(correct, N))
    assert cells["RA, PGD-20, adv branch", "split"][0] == (SA["auxstatbn"] - 30) / N


def test_cells_of_another_ball_than_the_branch_s_are_empty():
    attacks = {
        "linf": {"threat_model": "linf", "epsilon": "8/255", "step_size": "2/255"},
        "l2": {"threat_model": "l2", "epsilon": "1/2", "step_size": "1/8"},
    }
    protocol = make_record("bn").protocol | {"branches": attacks}
    both = [
        Verdict(attack, rule, branch, branch, np.arange(N) < 40 + 10 * row)
        for row, branch in enumerate(("clean", *attacks))
        for attack, rule in (("none", "final"), ("pgd-20", "final"), ("pgd-20", "any"))
    ]
    records = [
        make_record("bn", protocol=protocol),
        make_record("auxbn", protocol=protocol, verdicts=both),
    ]
    cells = {row[:2]: row[2:] for row in ablation_table(records).rows}
    # BN was attacked in linf, as its protocol says; on clean images there is no attack.
    assert cells["RA, PGD-20, linf branch", "shared"][0] == (SA["bn"] - 20) / N
    assert cells["RA, PGD-20, l2 branch", "shared"][:3] == (None, None, None)
    assert cells["RA, PGD-20, l2 branch", "split"][3:6] == (0.6, wilson(60, N), "a")
    assert cells["SA, l2 branch", "shared"][0] == SA["bn"] / N


def test_grid_marks_cells_that_are_not_distinguishable():
    table = ablation_table([make_record(norm) for norm in GRID.values()])
    (_, _, *shared), (_, _, *split), *_ = table.rows  # SA, clean branch
    bn, ccbn, sabn, _, auxbn, saauxbn = shared[2::3] + split[2::3]
    assert set(ccbn) & set(sabn)  # 60 and 61 of 100, one discordant image: p = 1
    assert not set(bn) & set(saauxbn)  # 50 and 90, 40 images one way: p = 2 / 2 ** 40
    assert not set(sabn) & set(auxbn)  # 61 and 80, 19 images one way


def test_cell_without_a_record_is_empty_and_seeds_are_averaged():
    lower = [
        Verdict(v.attack, v.rule, v.attack_branch, v.score_branch, v.correct & (np.arange(N) > 9))
        for v in make_record("auxbn").verdicts
    ]
    records = [
        make_record("auxbn"),
        make_record("auxbn", seed=1, verdicts=lower),
        make_record("saauxbn", adversarial=False),
    ]
    table = ablation_table(records)
    assert table.rows[1][:2] == ("SA, clean branch", "split")
    assert table.rows[1][2:] == (
        *(None,) * 3,
        *(pytest.approx(0.75), wilson(75, N), "a"),
        *(None,) * 3,
    )

"""Each check reacts to its evidence and to nothing else."""

import pytest
import torch

from robustnorm.evaluation.checks import CHECKS, verdict_of
from robustnorm.evaluation.checks.binarization import Binarized
from robustnorm.evaluation.checks.judge import judge
from robustnorm.evaluation.checks.measure import TIERS
from robustnorm.records.parts import Check

N = 200
TIER = TIERS["quick"]


def first(count):
    return torch.arange(N) < count


def honest():
    """Of 200 images 180 are classified correctly and 100 withstand PGD, whichever its start."""
    half = dict.fromkeys(["pgd", "longer", *(f"restart {i}" for i in range(1, 5))], first(100))
    weaker = dict.fromkeys(["fgsm", "square", "from clean"], first(120))
    sound = dict.fromkeys(["valid", "gradient"], first(N))
    radii = {"radius 0": first(180), "radius 8": first(150), "radius 24": first(100)}
    rest = {"clean": first(180), "noise": first(170), "unbounded": first(0), "radius 64": first(10)}
    still = dict.fromkeys(["repeated", "among others", "copy"], torch.full((N,), 1e-6))
    still |= {"bounded": first(3), "scale": torch.full((N,), 1.5), "margin": first(100)}
    return {**half, **weaker, **sound, **radii, **rest, **still}


def findings(evidence, missed=0, recorded=0.9, **options):
    binarized = Binarized(~(torch.arange(20) < missed), torch.zeros(20))
    return judge(evidence, binarized, steps=10, classes=10, tier=TIER, recorded=recorded, **options)


def flagged(found):
    return {
        name: finding.verdict for name, finding in found.items() if finding.verdict != "reliable"
    }


def test_every_check_is_explained_and_made():
    assert list(findings(honest())) == list(CHECKS)


def test_sound_evidence_is_reliable():
    assert flagged(findings(honest())) == {}


@pytest.mark.parametrize(
    ("check", "changes", "verdict"),
    [
        ("valid perturbations", {"valid": first(N - 1)}, "unreliable"),
        ("repeated forward", {"repeated": torch.full((N,), 1e-3)}, "unreliable"),
        ("companions", {"among others": torch.full((N,), 1e-3)}, "unreliable"),
        ("searching copy", {"copy": torch.full((N,), 1e-2)}, "unreliable"),
        ("probabilities", {"bounded": first(N)}, "unreliable"),
        ("loss", {"margin": first(94)}, "warn"),
        ("loss", {"margin": first(50)}, "unreliable"),
        ("input scale", {"scale": torch.full((N,), 5.0)}, "unreliable"),
        ("zero gradients", {"gradient": first(179)}, "warn"),
        ("zero gradients", {"gradient": first(100)}, "unreliable"),
        ("FGSM", {"fgsm": first(90)}, "unreliable"),
        ("more steps", {"longer": first(94)}, "warn"),
        ("more steps", {"longer": first(50)}, "unreliable"),
        ("more restarts", {"restart 4": first(94)}, "warn"),
        ("more restarts", {"restart 2": first(50)}, "unreliable"),
        ("epsilon 0", {"radius 0": first(179)}, "unreliable"),
        ("larger epsilon", {"radius 24": first(170)}, "unreliable"),
        ("unbounded attack", {"unbounded": first(40)}, "unreliable"),
        ("random noise", {"noise": first(99)}, "warn"),
        ("random noise", {"noise": first(90)}, "unreliable"),
        ("Square", {"square": first(90)}, "unreliable"),
        ("transfer", {"from clean": first(96)}, "unreliable"),
    ],
)
def test_check_bites(check, changes, verdict):
    assert flagged(findings(honest() | changes)) == {check: verdict}


@pytest.mark.parametrize("search", ["square", "noise"])
def test_images_that_pgd_on_the_margin_breaks_are_no_sign_of_masked_gradients(search):
    """Of ten that the cross-entropy misses, PGD on the margin breaks all, all but one, or none."""
    for left, verdict in ((0, None), (1, {"square": None, "noise": "warn"}[search])):
        evidence = honest() | {"margin": first(90 + left), search: first(90)}
        check = {"square": "Square", "noise": "random noise"}[search]
        assert flagged(findings(evidence)).get(check) == verdict
    evidence = honest() | {search: first(90)}
    assert flagged(findings(evidence))[check] == "unreliable"


def test_accuracy_far_below_the_recorded_one_is_flagged():
    """180 of 200 images, 90 %."""
    assert flagged(findings(honest(), recorded=0.99)) == {}
    assert flagged(findings(honest(), recorded=1.1)) == {"standard accuracy": "unreliable"}
    assert "standard accuracy" not in findings(honest(), recorded=None)


def test_copy_in_bfloat16_may_round_more():
    evidence = honest() | {"copy": torch.full((N,), 1e-2)}
    assert flagged(findings(evidence, precision="bf16")) == {}


def test_stronger_attack_through_another_branch_is_flagged():
    found = flagged(findings(honest() | {"from clean": first(80)}))
    assert found == {"transfer": "unreliable", "own branch": "unreliable"}


def test_missed_planted_examples_are_flagged():
    assert flagged(findings(honest(), missed=10)) == {"binarization test": "unreliable"}


def test_checks_that_do_not_apply_are_left_out():
    evidence = honest()
    del evidence["from clean"]
    found = judge(evidence, None, steps=10, classes=10, tier=TIER, recorded=0.9)
    assert set(CHECKS) - set(found) == {"transfer", "own branch", "binarization test"}


def test_misclassified_images_need_no_gradient():
    assert "zero gradients" not in flagged(findings(honest() | {"gradient": first(180)}))


def test_rounding_is_that_of_the_networks_precision():
    still = {"among others": torch.full((N,), 1e-6, dtype=torch.float64)}
    evidence = honest() | still | {"repeated": still["among others"]}
    assert flagged(findings(evidence)) == {
        "repeated forward": "unreliable",
        "companions": "unreliable",
    }


def test_verdict_of_a_branch_is_its_worst():
    checks = [
        Check(name, answer, verdict, 0.0, "", 1)
        for name, answer, verdict in [
            ("FGSM", "clean", "reliable"),
            ("Square", "clean", "unreliable"),
            ("transfer", "clean", "warn"),
            ("FGSM", "adv", "reliable"),
        ]
    ]
    assert verdict_of(checks, "clean") == "unreliable"
    assert verdict_of(checks, "adv") == "reliable"
    with pytest.raises(ValueError, match="'single' has not been checked"):
        verdict_of(checks, "single")

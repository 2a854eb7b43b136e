import numpy as np
import pytest
import torch

from robustnorm import bind, evaluate, resnet18
from robustnorm.attacks import pgd
from robustnorm.models.serving import RULES, Served

torch.manual_seed(0)
MODEL = resnet18("auxbn", width=4, num_classes=3, in_channels=1).double()
for _layer in MODEL.modules():
    if hasattr(_layer, "branches"):
        _layer.running_mean.normal_(std=0.3)
        _layer.running_var.uniform_(0.5, 1.5)
BRANCHES = [bind(MODEL.eval(), name) for name in ("clean", "adv")]
IMAGES = torch.rand(40, 1, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def by_hand(images, rule):
    clean, adv = (branch(images) for branch in BRANCHES)
    if rule == "mean logits":
        return (clean + adv) / 2
    rows = []
    for one, other in zip(clean, adv, strict=True):
        rows.append(one if one.softmax(0).max() > other.softmax(0).max() else other)
    return torch.stack(rows)


@pytest.mark.parametrize("rule", RULES)
def test_served_answers_by_the_rule(rule):
    torch.testing.assert_close(Served(BRANCHES, rule)(IMAGES), by_hand(IMAGES, rule))


def test_more_confident_branch_is_not_always_the_same():
    logits = Served(BRANCHES, "more confident branch")(IMAGES)
    from_clean = (logits == BRANCHES[0](IMAGES)).all(1)
    assert 0 < from_clean.sum() < len(IMAGES)


@pytest.mark.parametrize("rule", RULES)
def test_gradients_pass_through_the_rule(rule):
    images = IMAGES.clone().requires_grad_()
    (found,) = torch.autograd.grad(Served(BRANCHES, rule)(images)[:, 0].sum(), images)
    (expected,) = torch.autograd.grad(by_hand(images, rule)[:, 0].sum(), images)
    assert expected.abs().max() > 0
    torch.testing.assert_close(found, expected)


def test_unknown_rule_lists_the_known():
    with pytest.raises(ValueError, match="unknown serving rule 'vote'; known: mean logits"):
        Served(BRANCHES, "vote")


def test_evaluate_attacks_and_scores_each_rule():
    labels = by_hand(IMAGES, "mean logits").argmax(1)
    options = {"epsilon": 0.1, "step_size": 0.03, "steps": (3,)}
    found = {
        (v.attack, v.rule, v.attack_branch, v.score_branch): v.correct
        for v in evaluate(MODEL, IMAGES, labels, serving=True, **options)
    }
    answers = ("clean", "adv", *RULES)
    assert {key[2:] for key in found if key[:2] == ("pgd-3", "final")} == {
        (attacker, scorer) for attacker in answers for scorer in answers
    }
    without = evaluate(MODEL, IMAGES, labels, **options)
    assert all(
        np.array_equal(v.correct, found[v.attack, v.rule, v.attack_branch, v.score_branch])
        for v in without
    )


def test_attack_on_a_rule_differentiates_through_it():
    """From the same start, the evaluation's attack is a PGD on the rule itself."""
    from robustnorm.evaluation.search import Search, random_start

    labels = by_hand(IMAGES, "mean logits").argmax(1)
    start = random_start(IMAGES, torch.arange(len(IMAGES)), Search(0.1, 0.03, (3,)))
    verdicts = evaluate(
        MODEL, IMAGES, labels, serving=True, epsilon=0.1, step_size=0.03, steps=(3,)
    )
    for rule in RULES:
        served = Served(BRANCHES, rule)
        adv_images = pgd(served, IMAGES, labels, epsilon=0.1, step_size=0.03, steps=3, start=start)
        expected = (served(adv_images).argmax(1) == labels).numpy()
        (found,) = [
            v.correct
            for v in verdicts
            if (v.attack, v.rule, v.attack_branch, v.score_branch) == ("pgd-3", "final", rule, rule)
        ]
        assert np.array_equal(found, expected)
        assert 0 < expected.sum() < len(IMAGES)


def test_network_without_branches_has_no_rule():
    network = resnet18("bn", width=4, num_classes=3, in_channels=1).double().eval()
    verdicts = evaluate(network, IMAGES[:5], torch.zeros(5, dtype=torch.int64), serving=True)
    assert {v.attack_branch for v in verdicts} == {"single"}

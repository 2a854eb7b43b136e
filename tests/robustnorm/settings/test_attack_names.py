import pytest

from robustnorm.settings.attack_names import EvaluationAttack, parse_attacks


@pytest.mark.parametrize(
    ("name", "meaning"),
    [
        ("fgsm", {"kind": "fgsm"}),
        ("pgd-50", {"kind": "pgd", "steps": 50}),
        ("pgd-50x5", {"kind": "pgd", "steps": 50, "restarts": 5}),
        ("pgd-7-margin", {"kind": "pgd", "steps": 7, "loss": "margin"}),
        ("pgd-7x2-dlr", {"steps": 7, "restarts": 2, "loss": "dlr", "least_classes": 3}),
        ("pgd-7-targeted", {"steps": 7, "targeted": True}),
        ("pgd-7x2-dlr-targeted", {"loss": "dlr", "targeted": True, "least_classes": 4}),
        ("autoattack", {"kind": "autoattack", "part": "", "least_classes": 10}),
        ("apgd-ce", {"kind": "autoattack", "part": "apgd-ce", "least_classes": 2}),
        ("apgd-t", {"part": "apgd-t", "least_classes": 10}),
        ("fab-t", {"part": "fab-t", "least_classes": 10}),
        ("square", {"part": "square", "least_classes": 2}),
        ("torchattacks:DeepFool", {"kind": "torchattacks", "part": "DeepFool"}),
    ],
)
def test_name_says_what_is_run(name, meaning):
    (attack,) = parse_attacks([name])
    assert isinstance(attack, EvaluationAttack)
    assert attack.name == name
    assert {field: getattr(attack, field) for field in meaning} == meaning


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("pdg-50", "did you mean 'pgd-50'?"),
        ("autoatack", "did you mean 'autoattack'?"),
        ("FGSM", "did you mean 'fgsm'?"),
        ("pgd-50-magrin", "did you mean 'pgd-50-margin'?"),
        ("pgd-0", "An attack is fgsm; pgd-STEPS"),
        ("pgd-5x0", "An attack is"),
        ("pgd-50-targeted-dlr", "An attack is"),
        ("torchattacks:", "An attack is"),
        ("torchattacks:os.system", "An attack is"),
        ("", "unknown attack ''. An attack is"),
    ],
)
def test_unknown_name_is_refused_with_grammar_and_nearest(name, nearest):
    with pytest.raises(ValueError, match=f"unknown attack '{name}'") as refusal:
        parse_attacks([name])
    assert nearest in str(refusal.value)


def test_repeated_name_is_run_once():
    assert [attack.name for attack in parse_attacks(["fgsm", "pgd-3", "fgsm"])] == ["fgsm", "pgd-3"]

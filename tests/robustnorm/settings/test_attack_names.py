import pytest

from robustnorm.settings.attack_names import EvaluationAttack, parse_attacks


@pytest.mark.parametrize(
    ("name", "meaning"),
    [
        ("fgsm", {"function": "fgsm", "options": {}}),
        ("pgd-50", {"function": "pgd", "options": {"steps": 50, "loss": "ce"}, "restarts": 1}),
        ("pgd-50x5", {"function": "pgd", "options": {"steps": 50, "loss": "ce"}, "restarts": 5}),
        ("pgd-7-margin", {"options": {"steps": 7, "loss": "margin"}, "targeted": False}),
        ("pgd-7x2-dlr", {"options": {"steps": 7, "loss": "dlr"}, "restarts": 2}),
        ("pgd-7x2-dlr", {"least_classes": 3}),
        ("pgd-7-targeted", {"options": {"steps": 7, "loss": "ce"}, "targeted": True}),
        ("pgd-7x2-dlr-targeted", {"least_classes": 4}),
        ("autoattack", {"function": "autoattack", "options": {}}),
        ("apgd-ce", {"function": "autoattack", "options": {"attacks_to_run": ("apgd-ce",)}}),
        ("square", {"function": "autoattack", "options": {"attacks_to_run": ("square",)}}),
        ("torchattacks:DeepFool", {"function": "torchattack", "options": {"name": "DeepFool"}}),
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
        ("pgd-0", "An attack is fgsm, autoattack"),
        ("pgd-5x0", "An attack is"),
        ("pgd-50-targeted-dlr", "An attack is"),
        ("torchattacks:", "An attack is"),
        ("torchattacks:os.system", "An attack is"),
        ("pgd", "did you mean 'pgd-50'?"),
        ("torchattack", "An attack is"),
        ("", "unknown attack ''. An attack is"),
    ],
)
def test_unknown_name_is_refused_with_grammar_and_nearest(name, nearest):
    with pytest.raises(ValueError, match=f"unknown attack '{name}'") as refusal:
        parse_attacks([name])
    assert nearest in str(refusal.value)


def test_repeated_name_is_run_once():
    assert [attack.name for attack in parse_attacks(["fgsm", "pgd-3", "fgsm"])] == ["fgsm", "pgd-3"]

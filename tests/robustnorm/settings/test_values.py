import re
from fractions import Fraction
from typing import Any, Literal

import pytest

from robustnorm.settings.campaign import PlanSettings
from robustnorm.settings.groups import BranchAttack
from robustnorm.settings.values import make, to_type


@pytest.mark.parametrize(
    ("kind", "value", "expected"),
    [
        (int, "12", 12),
        (float, "5e-4", 5e-4),  # text in YAML 1.1
        (float, 3, 3.0),
        (bool, "True", True),
        (bool, "no", False),
        (str, "0x", "0x"),
        (int | None, None, None),
        (int | None, "null", None),
        (str | None, "none", "none"),
        (Fraction, "8/255", Fraction(8, 255)),
        (Fraction, 0.5, Fraction(1, 2)),
        (Literal["linf", "l2"], "Linf", "linf"),
        (tuple[int, ...], "[1, 2]", (1, 2)),
        (tuple[int, ...], "1,2", (1, 2)),
        (tuple[int, ...], 3, (3,)),
        (tuple[int, ...], "[]", ()),
        (tuple[float, float], [0, "0.9"], (0.0, 0.9)),
        (list[str], "a", ["a"]),
        (tuple[str, ...], '["torchattacks:DeepFool", fgsm]', ("torchattacks:DeepFool", "fgsm")),
        (dict[str, Any], "{width: 8}", {"width": 8}),
        (
            dict[str, BranchAttack],
            {"far": {"threat_model": "L2", "epsilon": 8, "step_size": "1/2"}},
            {"far": BranchAttack("l2", Fraction(8), Fraction(1, 2))},
        ),
    ],
)
def test_value_is_understood_as_people_write_it(kind, value, expected):
    found = to_type(kind, value, "x")
    assert found == expected
    assert type(found) is type(expected)


@pytest.mark.parametrize(
    ("kind", "value", "message"),
    [
        (int, "ten", "x must be a whole number, got ten"),
        (int, 3.5, "x must be a whole number, got 3.5"),
        (int, True, "x must be a whole number, got True"),
        (int, "9" * 5000, "x must be at most 10^9, got 9"),
        (int, "", "x must be a whole number, got ''"),
        (dict[str, Any], "[" * 5000, "x must be a mapping such as {width: 16}, got [["),
        (dict[str, Any], {1: 2}, "x must be text, in quotes if it looks like a number, got 1"),
        (int, None, "x must be a whole number, got null"),
        (float, "nan", "x must be a number, got nan"),
        (float, 10**400, "x must be a number, got 1"),
        (bool, "maybe", "x must be true or false, got maybe"),
        (Fraction, "1e-999999999", "x must be a number such as 8/255 or 0.03, got 1e-9"),
        (str, 3, "x must be text, in quotes if it looks like a number, got 3"),
        (str, "a\0b", r"x holds a character that no name can have, got 'a\x00b'"),
        (str, "a\udc80", "x holds a character that no name can have"),
        (str, "a" * 5000, "x has 5000 characters, more than 4000"),
        (Literal["a", "b", "c"], "d", "x must be a, b or c, got d"),
        (tuple[int, ...], "[1, two]", "each of x must be a whole number, got two"),
        (tuple[int, ...], {"a": 1}, "x must be a list such as [a, b], got {'a': 1}"),
        (tuple[float, float], "1", "x must be 2 values, got 1"),
        (dict[str, Any], "a: [", "x must be a mapping such as {width: 16}, got a: ["),
        (dict[str, BranchAttack], {"y": {}}, "x.y.threat_model is required"),
        (dict[str, BranchAttack], {"y": {"epsilom": 1}}, "'x.y.epsilom'; did you mean 'epsilon'?"),
    ],
)
def test_value_of_another_type_is_refused_in_one_line(kind, value, message):
    with pytest.raises(ValueError, match=re.escape(message)) as caught:
        to_type(kind, value, "x")
    assert len(str(caught.value)) < 200
    assert "\n" not in str(caught.value)


def test_make_refuses_an_unknown_setting_with_the_nearest():
    with pytest.raises(ValueError, match=r"^unknown setting 'confg'; did you mean 'config'\?$"):
        make(PlanSettings, {"confg": "digits"})

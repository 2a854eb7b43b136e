"""A few of the inputs of ``make fuzz``, the same ones each time."""

import pytest
from fuzz_harness import FAULT, HANG, REFUSED, Target, attempt, fuzz
from fuzz_targets import KINDS, targets
from hypothesis import strategies as st

from robustnorm.system.errors import UsageError

INPUTS = 40
# What hypothesis does while it makes inputs, and Python's zip files while some are made.
pytestmark = pytest.mark.filterwarnings("ignore:Duplicate name:UserWarning")


@pytest.mark.parametrize("kind", KINDS)
def test_made_inputs_are_read_or_refused_in_one_sentence(tmp_path, kind):
    for name, target in targets(tmp_path, kind).items():
        found = fuzz(target, round(INPUTS * target.share))
        assert found.faults == {}, name
        assert sum(found.counts.values()) > INPUTS * target.share * 0.5, name
        assert found.counts[REFUSED] or name in ("journals", "decoded images"), name


def test_traceback_and_refusal_in_lines_are_faults():
    def fail(_made):
        raise KeyError("x")

    def refuse(made):
        raise made

    class LinesError(UsageError):
        def __str__(self):
            return "a\nb"

    assert fuzz(Target(st.integers(), fail), 5).counts == {FAULT: 5}
    assert attempt(refuse, LinesError())[0] == FAULT
    assert attempt(refuse, UsageError("a\nb"))[0] == REFUSED
    assert attempt(refuse, UsageError(""))[0] == FAULT


def test_input_that_takes_long_is_a_hang(monkeypatch):
    monkeypatch.setattr("fuzz_harness._SECONDS", 0.0)
    found = fuzz(Target(st.just(0), lambda _made: sum(range(10_000))), 1)
    assert found.counts == {HANG: 1}

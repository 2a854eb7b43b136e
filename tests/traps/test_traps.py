"""What this package makes of every trap: the true number or a refusal, never a wrong one."""

import os
import sys

import numpy as np
import pytest
import torch
from trap_apart import ask_apart
from trap_cases import CLASSES, LABELS, N
from trap_tools import RAW, RIGHT, SAID, TRAPS, Outcome, ask
from trap_truth import by_grid, linear_in_box, linear_radii

from robustnorm.evaluation import chunks

# Deprecated by torch, still in use by others.
pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit.(trace|trace_method)` is deprecated")

# Where a number can be given it is; of these, a refusal or a warning will do.
REFUSED = {
    "labels counted from 1",
    "labels counted from 1, none of the last class",
    "labels as a list",
    "images 0 to 255",
    "images normalized outside the network",
    "epsilon 8 for 8/255",
    "epsilon as text",
    "epsilon 1e-99",
    "weights made in inference mode",
    "a function, no module",
    "images rounded to 16 levels",
    "optimization that needs gradients on",
    "NaN for every image but the clean ones",
    "infinite for every image but the clean ones",
    "gradients that are NaN",
    "answers that are steps",
    "shattered gradients",
    "logits cut off",
}


@pytest.fixture(scope="module", autouse=True)
def _small_chunks(short_worst):
    """The images of a trap are not padded to 100."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(chunks, "CHUNK", N)
        yield


@pytest.mark.parametrize("name", TRAPS)
def test_trap(name):
    outcome = ask("robustnorm", name)
    assert outcome.verdict in (RIGHT, SAID), outcome
    if TRAPS[name].truth is not None and name not in REFUSED:
        assert outcome.verdict == RIGHT, outcome


def test_there_are_traps_of_every_kind():
    assert len(TRAPS) >= 40
    assert set(TRAPS) >= REFUSED
    truths = [trap.truth for trap in TRAPS.values() if trap.truth is not None]
    assert 0.2 < np.mean(truths) < 0.8  # a tool that says 0 or 1 is not right
    assert len(LABELS.unique()) == CLASSES


def test_formula_and_grid_agree_on_a_plane():
    """Two independent ways to the truth of one linear network of two pixels."""
    weight = np.array([[0.0, 1.0], [0.87, -0.5], [-0.87, -0.5]])
    bias = -weight @ np.array([0.5, 0.5])
    images = np.random.default_rng(0).uniform(0.2, 0.8, (12, 2))
    labels = (images @ weight.T + bias).argmax(1)
    epsilon = 0.1
    radii = linear_radii(weight, bias, images, labels, "linf")
    expected = float((radii > epsilon).mean())
    found = by_grid(lambda points: (points @ weight.T + bias).argmax(1), images, labels, epsilon)
    assert 0 < expected < 1
    assert found == linear_in_box(weight, bias, images, labels, epsilon) == expected


def test_a_question_does_not_reach_the_next_one():
    def leave_gradients_off(tool, name):
        torch.set_grad_enabled(False)
        return Outcome(RIGHT, 0.5, name)

    assert ask_apart("", "first", ask=leave_gradients_off) == Outcome(RIGHT, 0.5, "first")
    assert torch.is_grad_enabled()


def test_what_a_tool_prints_is_no_part_of_the_report(capfd):
    def prints(tool, name):
        sys.stdout.write(f"{tool} says hello")
        sys.stdout.flush()
        return Outcome(RIGHT, 0.5, "")

    assert ask_apart("ours", "any", ask=prints).verdict == RIGHT
    assert capfd.readouterr().out == ""


def test_the_end_of_the_process_and_silence_are_raw_errors():
    ended = ask_apart("", "", ask=lambda tool, name: os._exit(7))
    assert (ended.verdict, ended.words) == (RAW, "the process ended with status 7")
    silent = ask_apart("", "", ask=lambda tool, name: __import__("time").sleep(60), seconds=0.2)
    assert (silent.verdict, silent.words) == (RAW, "no answer within 0.2 s")

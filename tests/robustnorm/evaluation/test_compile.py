"""Compiled copies: the same verdicts, which come from the network itself."""

import shutil
import sys

import pytest
import torch
from tiny_network import tiny
from torch import nn

from robustnorm import evaluate
from robustnorm.evaluation.attack import attack_chunk
from robustnorm.evaluation.search import Search, branches

# torch's own, of what it imports and of how it traces an autograd.Function.
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::DeprecationWarning")]


@pytest.fixture(autouse=True)
def _forget_what_is_compiled():
    torch.compiler.reset()


def make_data():
    generator = torch.Generator().manual_seed(0)
    return torch.rand(6, 1, 8, 8, generator=generator), torch.arange(6) % 3


def run(model, data=None, **options):
    given = {"epsilon": 0.1, "step_size": 0.03, "steps": (2,)} | options
    return [
        (v.attack, v.rule, v.attack_branch, v.score_branch, v.correct.tolist(), v.disagreements)
        for v in evaluate(model, *(data or make_data()), **given)
    ]


@pytest.mark.parametrize(
    ("norm", "precision", "serving"),
    [("auxbn", "fp32", True), ("saauxbn", "bf16", False), ("modenorm", "fp32", False)],
)
def test_compiled_search_gives_the_verdicts_of_an_eager_one(monkeypatch, norm, precision, serving):
    compile_eagerly, compiled = torch.compile, []

    def compile_copy(copy):
        compiled.append(copy)
        return compile_eagerly(copy, backend="eager")

    monkeypatch.setattr(torch, "compile", compile_copy)
    torch.manual_seed(0)
    model = tiny(norm, num_classes=3, in_channels=1).eval()
    options = {"precision": precision, "serving": serving}
    expected = run(model, **options)
    assert not compiled
    assert run(model, compile=True, **options) == expected
    assert len(compiled) == (1 if norm == "modenorm" else 2)  # the copies, not what judges


@pytest.mark.skipif(
    sys.platform != "linux" or not shutil.which("g++"), reason="inductor needs a compiler of C++"
)
def test_search_compiled_by_inductor_gives_the_verdicts_of_an_eager_one(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 4, 3),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(144, 3),
    ).eval()
    expected = run(model)
    assert run(model, compile=True) == expected


def test_search_is_compiled_once_more_for_all_other_numbers_of_images(monkeypatch):
    graphs = []

    def count(graph, _inputs):
        graphs.append(graph)
        return graph.forward

    compile_copy = torch.compile
    monkeypatch.setattr(torch, "compile", lambda copy: compile_copy(copy, backend=count))
    torch.manual_seed(0)
    attacked = branches(tiny("bn", num_classes=3, in_channels=1).eval(), compile=True)
    for n in (200, 400, 100, 300):
        images, labels, ids = torch.rand(n, 1, 4, 4), torch.arange(n) % 3, torch.arange(n)
        attack_chunk(attacked, images, labels, ids, Search(0.1, 0.03, (2,)))
    assert len(graphs) == 2 + 1  # with a gradient, then for any number, and so without one

"""If memory does not suffice for a chunk, smaller chunks give the same verdicts."""

import logging

import pytest
import torch

from robustnorm import evaluate
from robustnorm.attacks import ATTACKS
from robustnorm.evaluation.attack import attack_chunk
from robustnorm.evaluation.search import Search, branches
from robustnorm.settings.attack_names import parse_attacks
from robustnorm.system.errors import OutOfMemoryError
from robustnorm.system.memory import in_smaller_batches

SEARCH = Search(0.1, 0.03, (1,))
N = 130  # one whole chunk and one padded
ERRORS = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
    RuntimeError("[enforce fail] . DefaultCPUAllocator: can't allocate memory: you tried to"),
    MemoryError(),
]


@pytest.fixture(scope="module")
def model(make_network):
    return make_network()


@pytest.fixture(scope="module")
def data():
    generator = torch.Generator().manual_seed(1)
    return (
        torch.rand((N, 1, 8, 8), generator=generator),
        torch.randint(3, (N,), generator=generator),
    )


def verdicts(model, data, **options):
    given = {"epsilon": 0.1, "step_size": 0.03, "steps": (2, 4)} | options
    return [
        (v.attack, v.rule, v.attack_branch, v.score_branch, v.correct.tolist(), v.disagreements)
        for v in evaluate(model, *data, **given)
    ]


@pytest.mark.parametrize(
    ("options", "most"),
    [
        ({"serving": True}, 50),
        ({"rules": "any"}, 13),
        ({"attacks": ("fgsm", "pgd-3x2-margin-targeted")}, 30),
    ],
)
def test_evaluation_in_smaller_chunks_gives_the_same_verdicts(model, data, shrink, options, most):
    expected = verdicts(model, data, **options)
    shrink(most)
    assert verdicts(model, data, **options) == expected


@pytest.mark.parametrize("error", ERRORS)
def test_chunk_is_halved_until_it_fits_and_a_line_says_so(caplog, error):
    sizes = []

    def work(size):
        sizes.append(size)
        if size > 25:
            raise error
        return "done"

    with caplog.at_level(logging.WARNING, logger="robustnorm"):
        assert in_smaller_batches(work, 100) == "done"
    assert sizes == [100, 50, 25]
    assert "attacking 25 images at a time instead of 100" in caplog.text


def test_other_errors_are_not_taken_for_a_lack_of_memory():
    def work(_size):
        raise RuntimeError("size mismatch")

    with pytest.raises(RuntimeError, match="size mismatch"):
        in_smaller_batches(work, 100)


def test_lack_of_memory_for_one_image_ends_the_evaluation(model, data, shrink):
    expected = ERRORS[0]
    evaluated = branches(model)
    shrink(0, expected)
    with pytest.raises(OutOfMemoryError, match=r"one image at a time .*use a device with more"):
        attack_chunk(evaluated, *data, torch.arange(N), SEARCH, attack=parse_attacks(["fgsm"])[0])


def test_code_of_others_is_not_given_smaller_chunks(model, data, shrink, monkeypatch):
    monkeypatch.setitem(ATTACKS, "autoattack", lambda model, images, *_, **__: model(images))
    evaluated = branches(model)
    shrink(50)
    with pytest.raises(OutOfMemoryError, match="smaller batches would change its verdicts"):
        attack_chunk(evaluated, *data, torch.arange(N), SEARCH, attack=parse_attacks(["square"])[0])

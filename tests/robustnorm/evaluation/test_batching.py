"""As many chunks at once as memory holds: the same parts, verdicts and images as one by one."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from robustnorm import bind, evaluate
from robustnorm.attacks.passes import Passes
from robustnorm.evaluation import batching
from robustnorm.evaluation import evaluate as module
from robustnorm.evaluation.attack import attack_chunk
from robustnorm.evaluation.batching import images_at_once
from robustnorm.evaluation.chunks import CHUNK, in_few_batch_sizes
from robustnorm.evaluation.search import Branch, Search, branches
from robustnorm.records.journal import Journal

SEARCH = Search(0.1, 0.03, (1, 2))
N = 330  # three whole chunks and one padded
GIB = 2**30


@pytest.fixture(scope="module")
def model(make_network):
    return make_network().double()  # no verdict hangs on the order of a sum


@pytest.fixture(scope="module")
def data(model):
    images = torch.rand(N, 1, 4, 4, generator=torch.Generator().manual_seed(1)).double()
    with torch.no_grad():
        labels = bind(model, "adv")(images).argmax(1)
    labels[::7] = (labels[::7] + 1) % 3
    return images, labels


def run(model, data, **options):
    given = {"epsilon": 0.1, "step_size": 0.03, "steps": (1, 2)} | options
    return {
        (v.attack, v.rule, v.attack_branch, v.score_branch): (v.correct.tolist(), v.disagreements)
        for v in evaluate(model, *data, **given)
    }


def at_once(monkeypatch, count):
    monkeypatch.setattr(module, "images_at_once", lambda *_: count)


def test_one_chunk_at_once_on_the_cpu_without_an_attack(monkeypatch, model, data):
    monkeypatch.setattr(batching, "attack_chunk", None)
    assert images_at_once(branches(model), *data, torch.arange(N), SEARCH) == CHUNK


class StandIn:
    """A GPU of which an attack on a chunk takes 1 GiB, held by torch afterwards."""

    def __init__(self, monkeypatch, free, allocated=3 * GIB):
        self.free, self.allocated, self.peak, self.reserved = free, allocated, 90 * GIB, allocated
        for name, function in {
            "memory_allocated": lambda _: self.allocated,
            "memory_reserved": lambda _: self.reserved,
            "max_memory_allocated": lambda _: self.peak,
            "reset_peak_memory_stats": self.reset,
            "mem_get_info": lambda _: (self.free, 80 * GIB),
        }.items():
            monkeypatch.setattr(torch.cuda, name, function)
        monkeypatch.setattr(batching, "attack_chunk", self.attack)
        device = torch.device("cuda")
        score = SimpleNamespace(parameters=lambda: iter([SimpleNamespace(device=device)]))
        self.attacked = [Branch("single", score, None)]

    def reset(self, _device):
        self.peak = self.allocated

    def attack(self, _attacked, images, labels, image_ids, search):
        assert len(images) == len(labels) == len(image_ids) == CHUNK
        assert search.steps == (1,)
        self.peak = self.allocated + GIB
        self.reserved, self.free = self.reserved + GIB, self.free - GIB

    def images_at_once(self, count=5000):
        data = (torch.zeros(count, 1, 1, 1), torch.zeros(count), torch.arange(count))
        return images_at_once(self.attacked, *data, SEARCH)


@pytest.mark.parametrize(
    ("free", "expected"),
    [(10.1, 6 * CHUNK), (5.1, 3 * CHUNK), (79, 20 * CHUNK), (1.1, CHUNK)],
)
def test_as_many_chunks_as_fill_six_tenths_of_free_memory(monkeypatch, free, expected):
    """What torch keeps of freed memory counts as free, an earlier peak does not count."""
    assert StandIn(monkeypatch, int(free * GIB)).images_at_once() == expected


def test_one_chunk_of_images_is_not_measured(monkeypatch):
    gpu = StandIn(monkeypatch, 50 * GIB)
    assert gpu.images_at_once(CHUNK) == CHUNK
    assert gpu.peak == 90 * GIB


@pytest.mark.parametrize("options", [{}, {"serving": True}, {"rules": "any"}])
def test_several_parts_at_once_give_the_same_verdicts(model, data, monkeypatch, options):
    expected = run(model, data, **options)
    at_once(monkeypatch, 3 * CHUNK)
    assert run(model, data, **options) == expected


def test_several_parts_at_once_keep_the_same_journal_and_images(model, data, tmp_path, monkeypatch):
    for count in (CHUNK, 3 * CHUNK):
        at_once(monkeypatch, count)
        folder = tmp_path / str(count)
        run(model, data, keep=folder / "images", journal=folder / "x.journal", fingerprint="a")
    one, several = (tmp_path / str(count) for count in (CHUNK, 3 * CHUNK))
    expected = Journal(one / "x.journal", "a").chunks
    found = Journal(several / "x.journal", "a").chunks
    assert list(found) == list(expected) == [0, 1, 2, 3]
    for number, verdicts in expected.items():
        assert list(found[number]) == list(verdicts)
        for key, part in verdicts.items():
            assert np.array_equal(found[number][key].correct, part.correct)
            assert np.array_equal(found[number][key].agrees, part.agrees)
    for key in expected[0]:
        passes = [Passes.sum(part[key].passes for part in of.values()) for of in (expected, found)]
        assert passes[0] == passes[1]
    files = sorted(path.name for path in (one / "images").iterdir())
    assert files == sorted(path.name for path in (several / "images").iterdir())
    assert len(files) == 4
    for name in files:  # written in float32: the last bits of float64 are not seen
        assert (one / "images" / name).read_bytes() == (several / "images" / name).read_bytes()


@pytest.mark.parametrize("count", [CHUNK, 2 * CHUNK, 20 * CHUNK])
def test_killed_evaluation_goes_on_with_another_number_at_once(
    model, data, tmp_path, monkeypatch, kill, count
):
    expected = run(model, data)
    attacked = kill()
    journal = {"journal": tmp_path / "x.journal", "fingerprint": "a"}
    at_once(monkeypatch, 2 * CHUNK)
    with pytest.raises(KeyboardInterrupt):
        run(model, data, **journal)
    at_once(monkeypatch, count)
    assert run(model, data, **journal) == expected
    rest = {CHUNK: [CHUNK, 30]}.get(count, [130])
    assert attacked == [200, 130, *rest]


def test_image_file_that_is_missing_is_made_again_beside_parts_that_are_not_done(
    model, data, tmp_path, monkeypatch
):
    """Parts 0 and 3, which are no neighbours, are attacked together."""
    keep, journal = tmp_path / "images", {"journal": tmp_path / "x.journal", "fingerprint": "a"}
    expected = run(model, data, keep=keep, **journal)
    files = [keep / f"{number:05d}.safetensors" for number in (0, 3)]
    before = [file.read_bytes() for file in files]
    for file in files:
        file.unlink()
    at_once(monkeypatch, 3 * CHUNK)
    assert run(model, data, keep=keep, **journal) == expected
    assert [file.read_bytes() for file in files] == before


def watch(attacked, sizes):
    """Records the number of images in each call."""

    def watched(branch):
        def search(images):
            sizes.add(len(images))
            return branch.standin(images)

        return branch._replace(standin=search)

    return [watched(branch) for branch in attacked]


@pytest.mark.parametrize(("count", "filled"), [(30, 100), (100, 100), (230, 300), (N, 400)])
def test_batch_is_filled_up_to_whole_chunks_only(model, data, count, filled):
    sizes = set()
    images, labels = (values[:count] for values in data)
    outcomes = attack_chunk(
        watch(branches(model), sizes), images, labels, torch.arange(count), SEARCH
    )
    assert sizes == {filled}
    assert {len(outcome.correct) for outcome in outcomes.values()} == {count}


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, {400}),
        ({"rules": "any"}, {100}),  # a quarter of the images
        ({"attacks": ("fgsm",)}, {400}),
    ],
)
def test_evaluation_does_not_attack_more_at_once_than_there_are(
    model, data, monkeypatch, options, expected
):
    sizes = set()
    monkeypatch.setattr(
        module, "branches", lambda *arguments, **named: watch(branches(*arguments, **named), sizes)
    )
    at_once(monkeypatch, 20 * CHUNK)
    run(model, data, **options)
    assert sizes == expected


def test_too_many_at_once_are_halved(model, data, monkeypatch, shrink, caplog):
    expected = run(model, data)
    at_once(monkeypatch, 20 * CHUNK)
    shrink(CHUNK)
    assert run(model, data) == expected
    assert "attacking 100 images at a time instead of 400" in caplog.text


def test_batches_are_of_few_sizes_and_an_image_is_never_alone():
    sizes = []

    def network(images):
        sizes.append(len(images))
        return images * 2

    filled = in_few_batch_sizes(network, 100)
    for count in range(1, 101):
        images = torch.rand(count, 3, requires_grad=True)
        logits = filled(images)
        assert torch.equal(logits, images * 2)
        (gradient,) = torch.autograd.grad(logits.sum(), images)
        assert torch.equal(gradient, torch.full_like(images, 2.0))
    assert set(sizes) == {2, 4, 7, 13, 25, 50, 100}

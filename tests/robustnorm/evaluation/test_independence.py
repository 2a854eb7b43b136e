"""A verdict depends on network, image and seed, not on the images beside it."""

import hashlib
from concurrent.futures import ProcessPoolExecutor

import numpy as np
import pytest
import torch
from independent_runs import N, run
from processes import CONTEXT

from robustnorm import evaluate
from robustnorm.evaluation import evaluate as module
from robustnorm.evaluation.attack import attack_chunk


def digest(*parts):
    """sha256 over all verdicts of parts that together hold every image."""
    together = {key: {} for key in parts[0]}
    for part in parts:
        for key, verdicts in part.items():
            together[key] |= verdicts
    sha256 = hashlib.sha256()
    for key in sorted(together):
        assert sorted(together[key]) == list(range(N))
        bits = np.array([together[key][i] for i in range(N)])
        sha256.update(repr(key).encode() + np.packbits(bits).tobytes())
    return sha256.hexdigest()


@pytest.fixture(scope="module")
def whole():
    verdicts = run(list(range(N)))
    assert len(verdicts) == 2 * 6  # none, final, any, two named, the other branch
    counts = {sum(bits.values()) for bits in verdicts.values()}
    assert len(counts) > 4  # no constant that would be equal whatever is done
    return digest(verdicts)


@pytest.mark.parametrize("count", [1, 37, 100])
def test_digest_is_the_same_for_any_number_of_images_at_once(whole, count):
    first = run(list(range(count)))
    assert digest(first, run(list(range(count, N)))) == whole


@pytest.mark.parametrize("options", [{}, {"attacks": ["worst"]}, {"rules": "any"}])
def test_verdicts_do_not_depend_on_the_default_device(make_network, options):
    """On the meta device, unlike on a GPU, every tensor made without a device is found."""
    network = make_network()
    images = torch.rand(20, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(20) % 3

    def evaluated():
        given = {"epsilon": 0.1, "step_size": 0.05, "steps": (2,)}
        verdicts = evaluate(network, images, labels, **given, **options)
        return {(v.attack, v.rule): v.correct.tolist() for v in verdicts}

    expected = evaluated()
    with torch.device("meta"):
        assert evaluated() == expected


@pytest.mark.parametrize("seed", [0, 1])
def test_digest_is_the_same_in_any_order(whole, seed):
    order = torch.randperm(N, generator=torch.Generator().manual_seed(seed)).tolist()
    assert digest(run(order)) == whole


def test_digest_is_the_same_after_an_interruption(whole, tmp_path, monkeypatch):
    chunks = []

    def interrupted(*arguments, **options):
        if arguments[6] is None:  # the search; a named attack follows it on every chunk
            chunks.append(len(arguments[1]))
        if len(chunks) == 2:
            raise KeyboardInterrupt
        return attack_chunk(*arguments, **options)

    monkeypatch.setattr(module, "attack_chunk", interrupted)
    options = {"journal": tmp_path / "x.journal", "fingerprint": "a"}
    with pytest.raises(KeyboardInterrupt):
        run(list(range(N)), **options)
    # In another order: the journal's chunks are those of ascending ids.
    assert digest(run(list(reversed(range(N))), **options)) == whole
    assert chunks == [100, 30, 30]


def test_digest_is_the_same_from_two_processes_each_with_half(whole):
    with ProcessPoolExecutor(
        2, mp_context=CONTEXT, initializer=torch.set_num_threads, initargs=(1,)
    ) as pool:
        halves = list(pool.map(run, [list(range(0, N, 2)), list(range(1, N, 2))]))
    assert digest(*halves) == whole

"""A verdict follows from the network, the image and the seed: not from what it was asked with."""

import hashlib
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import numpy as np
import pytest
import torch

from robustnorm import evaluate, resnet18
from robustnorm.evaluation import evaluate as module
from robustnorm.evaluation.attack import attack_chunk
from robustnorm.norms.routing import bind

N = 130  # one whole chunk and one padded


def make_model():
    torch.manual_seed(0)
    network = resnet18("auxbn", width=4, num_classes=4, in_channels=1)
    for layer in network.modules():
        if hasattr(layer, "branches"):
            layer.running_mean.normal_(std=0.3)
            layer.running_var.uniform_(0.5, 1.5)
    network.double().eval()  # float64: no verdict hangs on the order of a sum
    with torch.no_grad():  # every class is predicted, near to others
        network.fc.bias -= bind(network, "adv")(make_images()).mean(0)
    return network


def make_images():
    return torch.rand(N, 1, 4, 4, generator=torch.Generator().manual_seed(1)).double()


def make_data():
    images = make_images()
    with torch.no_grad():
        labels = bind(make_model(), "adv")(images).argmax(1)
    labels[::7] = (labels[::7] + 1) % 4
    return images, labels


def run(ids, **options):
    """Returns the verdicts of some images, each image's by its id."""
    images, labels = make_data()
    verdicts = evaluate(
        make_model(),
        images[ids],
        labels[ids],
        epsilon=0.1,
        step_size=0.03,
        steps=(2,),
        attacks=["pgd-2x2-dlr"],
        image_ids=torch.as_tensor(ids),
        **options,
    )
    return {
        (v.attack, v.rule, v.attack_branch, v.score_branch): dict(
            zip(ids, v.correct.tolist(), strict=True)
        )
        for v in verdicts
    }


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
    assert len(verdicts) == 2 * 5  # none, final, any, the named, the other branch
    counts = {sum(bits.values()) for bits in verdicts.values()}
    assert len(counts) > 4  # no constant that would be equal whatever is done
    return digest(verdicts)


@pytest.mark.parametrize("count", [1, 37, 100])
def test_digest_is_the_same_for_any_number_of_images_at_once(whole, count):
    first = run(list(range(count)))
    assert digest(first, run(list(range(count, N)))) == whole


@pytest.mark.parametrize("seed", [0, 1])
def test_digest_is_the_same_in_any_order(whole, seed):
    order = torch.randperm(N, generator=torch.Generator().manual_seed(seed)).tolist()
    assert digest(run(order)) == whole


def test_digest_is_the_same_after_an_interruption(whole, tmp_path, monkeypatch):
    chunks = []

    def interrupted(*arguments):
        if arguments[6] is None:  # the search; a named attack follows it on every chunk
            chunks.append(len(arguments[1]))
        if len(chunks) == 2:
            raise KeyboardInterrupt
        return attack_chunk(*arguments)

    monkeypatch.setattr(module, "attack_chunk", interrupted)
    options = {"journal": tmp_path / "x.journal", "fingerprint": "a"}
    with pytest.raises(KeyboardInterrupt):
        run(list(range(N)), **options)
    # In another order: the journal's chunks are those of ascending ids.
    assert digest(run(list(reversed(range(N))), **options)) == whole
    assert chunks == [100, 30, 30]


def test_digest_is_the_same_from_two_processes_each_with_half(whole):
    context = get_context("spawn")
    with ProcessPoolExecutor(
        2, mp_context=context, initializer=torch.set_num_threads, initargs=(1,)
    ) as pool:
        halves = list(pool.map(run, [list(range(0, N, 2)), list(range(1, N, 2))]))
    assert digest(*halves) == whole

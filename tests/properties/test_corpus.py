"""Networks, weights and data as users bring them: each goes the whole way to a verified record."""

from pathlib import Path

import corpus
import numpy as np
import pytest
import torch

from robustnorm import cli
from robustnorm.attacks.logits import find_logits
from robustnorm.data import load_dataset
from robustnorm.records.record import Record
from robustnorm.runs import load_model
from robustnorm.system.errors import Status

ROOT = Path(__file__).parents[2]


@pytest.fixture
def command(capsys):
    """Runs a command; returns its status and its errors, of which there is at most one, a line."""

    def run(*words):
        capsys.readouterr()
        status = cli.main(list(words))
        said = capsys.readouterr().err.splitlines()
        return status, [line for line in said if line.startswith("robustnorm:")]

    return run


def check_logits(shape, made, folder, record):
    """Asserts that the imported network computes what its own code computes."""
    resize = next((int(w.partition("=")[2]) for w in shape.words if w.startswith("--resize")), None)
    test = load_dataset(str(made.data), root=folder / "again", resize=resize).test
    images = test.images[:].float() / 255
    own = made.logits(images)
    imported, _ = load_model(Path("checkpoints/theirs/bn-seed0"), network=made.network)
    with torch.no_grad():
        found = find_logits(imported(images), len(images))
    exact = (
        {"rtol": 1e-5, "atol": 1e-5}
        if shape.weights != "half precision"
        else {"atol": 1e-2, "rtol": 0}
    )
    torch.testing.assert_close(found, own, **exact)
    clean = next(verdict for verdict in record.verdicts if verdict.attack == "none")
    assert np.array_equal(clean.correct, (own.argmax(1) == test.labels).numpy())


@pytest.mark.parametrize("shape", corpus.SHAPES, ids=lambda shape: shape.title)
def test_shape_is_evaluated_or_refused_in_a_sentence(
    shape, command, tmp_path, monkeypatch, torchvision_library
):
    if shape.network.startswith("timm:"):
        pytest.importorskip("timm")
    monkeypatch.chdir(tmp_path)
    made = corpus.make(shape, tmp_path)
    network = f"--network={made.network}"
    given = [f"--weights={made.weights}", network, f"--data={made.data}", *shape.words]
    quick = ["--device=cpu", "--name=theirs", "--checks=none", "--worst=false"]
    status, said = command("eval", *given, *quick)
    if shape.refused:
        assert status in (Status.REFUSED, Status.USAGE)
        assert len(said) == 1
        assert shape.refused in said[0]
        return
    assert (status, said) == (Status.DONE, [])
    [path] = Path("reports/theirs/records").glob("*.json")
    again = [network] if ":" in network else []
    verified = command("verify", str(path), "--device=cpu", f"--data={made.data}", *again)
    assert verified == (Status.DONE, [])
    check_logits(shape, made, tmp_path, Record.load(path))


def test_corpus_has_thirty_shapes_of_which_twenty_eight_are_evaluated():
    refused = [shape for shape in corpus.SHAPES if shape.refused]
    evaluated = len(corpus.SHAPES) - len(refused)
    print(f"{len(corpus.SHAPES)} shapes: {evaluated} evaluated, {len(refused)} refused")  # noqa: T201
    assert len({(s.network, s.weights, s.data) for s in corpus.SHAPES}) == len(corpus.SHAPES) >= 30
    assert evaluated >= 28
    for kind, known in (("weights", corpus.WEIGHTS), ("data", corpus.DATA)):
        assert {getattr(shape, kind) for shape in corpus.SHAPES} == set(known)


def test_documentation_lists_the_corpus():
    text = (ROOT / "docs" / "networks.md").read_text()
    shown = text.partition(corpus.BEGIN)[2].partition(corpus.END)[0].strip()
    assert shown == corpus.document(), "write it with: python tests/helpers/corpus.py"

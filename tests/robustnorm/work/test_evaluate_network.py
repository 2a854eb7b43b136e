"""From a network in Python to verdicts, a table, a data frame, a record and a page."""

import copy
import re
import sys

import numpy as np
import pytest
import torch
from record_factory import make_record
from torch import nn

from robustnorm import cli, evaluate, resnet18
from robustnorm.attacks.logits import InputError
from robustnorm.data.dataset import Augmentation, Dataset, Split
from robustnorm.evaluation.errors import EvaluationError
from robustnorm.evaluation.evaluate import evaluate as verdicts_of
from robustnorm.evaluation.search import Search
from robustnorm.evaluation.statistics import wilson
from robustnorm.records.record import Record
from robustnorm.reporting.results import Results
from robustnorm.reporting.tables import tables
from robustnorm.settings.groups import BranchAttack
from robustnorm.system.errors import CheckFailed, Status, UsageError
from robustnorm.system.stopping import Stopped
from robustnorm.work.evaluate_network import fraction_text

SIZE, N = 4, 12


def make_network(channels=3, classes=2):
    generator = torch.Generator().manual_seed(classes)
    network = nn.Sequential(nn.Flatten(), nn.Linear(channels * SIZE * SIZE, classes)).eval()
    weight = torch.randn(network[1].weight.shape, generator=generator)
    network[1].weight.data.copy_(weight)
    return network


def make_images(channels=3, classes=2):
    generator = torch.Generator().manual_seed(1)
    images = torch.randint(256, (N, channels, SIZE, SIZE), generator=generator).to(torch.uint8)
    network = make_network(channels, classes)
    labels = network(images / 255).argmax(1)
    labels[::3] = (labels[::3] + 1) % classes  # a third of the images are classified wrongly
    return network, images, labels


@pytest.mark.parametrize(
    ("channels", "classes", "threat_model", "epsilon"),
    [(1, 2, "linf", 8 / 255), (3, 1000, "linf", 8 / 255), (3, 2, "l2", 0.5), (1, 1000, "l2", 0.5)],
)
def test_results_are_the_verdicts_and_everything_made_of_them(
    channels, classes, threat_model, epsilon, tmp_path
):
    network, images, labels = make_images(channels, classes)
    how = {"threat_model": threat_model, "epsilon": epsilon, "step_size": epsilon / 4}
    expected = verdicts_of(network, images, labels, Search(**how, steps=(10, 20)))
    results = evaluate(network, images, labels, name="linear", data="made", **how)

    assert len(results) == len(expected)
    for found, verdict in zip(results, expected, strict=True):
        assert (found.attack, found.rule) == (verdict.attack, verdict.rule)
        assert np.array_equal(found.correct, verdict.correct)
    assert results[0].accuracy == 8 / N
    assert [verdict.attack for verdict in results[1:3]] == ["pgd-10", "pgd-10"]

    text = str(results)
    low, high = wilson(8, N)
    assert f"66.67   [{100 * low:.2f}, {100 * high:.2f}]" in text
    assert f"n = {N} test images of made." in text
    assert f"{threat_model.capitalize()}, epsilon {fraction_text(epsilon)}" in text
    assert "its training is not known; seed not known; protocol not known" in text
    assert repr(results) == text

    frame = results.to_dataframe()
    assert frame.accuracy.tolist() == [verdict.accuracy for verdict in expected]
    assert (frame.low <= frame.accuracy).all()
    assert (frame.accuracy <= frame.high).all()
    assert set(frame.n) == {N}
    assert set(frame.data) == {"made"}
    assert set(frame.threat_model) == {threat_model}

    loaded = Results.load(results.save(tmp_path / "records" / "linear.json"))
    assert str(loaded) == text
    assert loaded.record.labels == labels.tolist()
    assert loaded.record.dataset["classes"] == [str(k) for k in range(classes)]

    page = results.report(tmp_path / "linear.html").read_text()
    for said in ("<h1>linear on made</h1>", "66.67", f"<dd>{N}</dd>", "<svg", "not known"):
        assert said in page
    assert {path.name for path in tmp_path.iterdir()} == {"records", "linear.html"}


def test_page_and_tables_know_branches_and_rules(tmp_path):
    torch.manual_seed(0)
    network = resnet18("auxbn", width=4, num_classes=3).eval()
    images, labels = torch.rand(6, 3, 8, 8), torch.tensor([0, 1, 2, 0, 1, 2])
    results = evaluate(network, images, labels, steps=(1, 2), attacks=["worst"])
    page = results.report(tmp_path / "page.html").read_text()
    for said in ("ResNet (clean)", "RA, PGD-2, any iterate", "RA, worst case", "between branches"):
        assert said in page
    some = evaluate(network, images, labels, steps=(2,), rules="any")
    assert {verdict.rule for verdict in some} == {"final", "any"}
    assert "RA, PGD-2, any iterate" in some.report(tmp_path / "any.html").read_text()


def test_record_is_like_those_of_commands(tmp_path):
    network, images, labels = make_images()
    results = evaluate(network, images / 255, labels, name="linear")
    record = Record.load(results.save(tmp_path / "linear.json"))
    assert record.sealed
    table3, *_ = tables([record])
    assert ("SA", "linear") in [row[:2] for row in table3.rows]
    assert "Sequential given in Python, its training is not known" in table3.notes[1]


def test_verification_tells_another_network_and_other_images():
    network, images, labels = make_images()
    results = evaluate(network, images, labels, steps=(1,))
    assert re.search(
        r"predictions on clean images +12 +0\n", results.verify(network, images, labels)
    )
    # Images of 8 bits are the same as floats.
    assert "labels" in results.verify(network, images / 255, labels)
    with pytest.raises(CheckFailed, match="other images or labels"):
        results.verify(network, images.flip(0), labels)
    with pytest.raises(UsageError, match=r"BN is a run, .* with robustnorm verify"):
        Results(make_record("bn")).verify(network, images, labels)
    with pytest.raises(CheckFailed, match="another network"):
        results.verify(make_network(3, 3), images, labels)
    with pytest.raises(UsageError, match=r"evaluation mode: call model\.eval\(\) first"):
        results.verify(make_network().train(), images, labels)  # would move running statistics


def test_verification_takes_every_form_of_images_and_labels_that_evaluate_takes():
    network, images, labels = make_images()
    images[0, 0, 0, 0] = 255
    for some, classes in (
        (images, labels[:, None]),
        (images, nn.functional.one_hot(labels, 2)),
        ((images / 255).half(), labels.to(torch.int16)),
        (images.double() / 255, labels),
        (images / 255 + 1e-7, labels),  # clamped
    ):
        results = evaluate(network, some, classes, steps=(1,))
        text = results.verify(network, some, classes)
        assert re.search(r"labels +12 +0\npredictions on clean images +12 +0\n", text)
        with pytest.raises(CheckFailed, match="other images or labels"):
            results.verify(network, some, 1 - labels)


class Part(nn.Module):
    """A network without parameters."""

    def forward(self, images):
        return 9 * images.flatten(1)[:, :2]


def test_network_without_parameters_is_verified():
    network, images = Part().eval(), make_images()[1]
    labels = network(images / 255).argmax(1)
    text = evaluate(network, images, labels, steps=(1,)).verify(network, images, labels)
    assert re.search(r"predictions on clean images +12 +0\n", text)


def test_kept_images_are_verified_wherever_they_are(tmp_path):
    network, images, labels = make_images()
    results = evaluate(network, images, labels, steps=(1,), keep=tmp_path / "kept")
    loaded = Results.load(results.save(tmp_path / "linear.json"))
    for of, kept in ((results, tmp_path / "kept"), (results, None), (loaded, None)):
        text = of.verify(network, images, labels, kept=kept)
        assert re.search(r"images in the ball +24 +0\n", text)  # the final and the worst iterate
        assert text.endswith("Everything holds.")
    with pytest.raises(CheckFailed, match="cannot be read"):
        results.verify(network, images, labels, kept=tmp_path / "elsewhere")


@pytest.mark.parametrize("shape", [(12,), (3, 4), (3, 2, 2, 1)])
def test_kept_vectors_signals_and_volumes_are_verified(shape, tmp_path):
    network = nn.Sequential(nn.Flatten(), nn.Linear(12, 2)).eval()
    inputs = torch.rand(5, *shape, generator=torch.Generator().manual_seed(0))
    labels = network(inputs).argmax(1)
    results = evaluate(network, inputs, labels, steps=(1,), keep=tmp_path / "kept")
    text = results.verify(network, inputs, labels)
    assert re.search(r"images in the ball +10 +0\n", text)
    assert text.endswith("Everything holds.")


def test_text_claims_no_size_of_the_data_and_no_attack_that_it_does_not_know():
    network, images, labels = make_images()
    some = evaluate(network, images, labels, steps=(2,), image_ids=torch.arange(N) + 100)
    assert f"n = {N} test images of unnamed data." in str(some)
    assert "Worst case" not in str(some)
    dataset = make_dataset(images, labels)
    part = evaluate(network, images[:5], labels[:5], data=dataset, attacks=["fgsm"])
    assert f"n = 5 of {N} test images of made." in str(part)
    assert "withstand every iterate of PGD and fgsm" in str(part)


class Scaled(nn.Sequential):
    """A network whose logits depend on a number that is no tensor."""

    factor = 1.0

    def forward(self, images):
        return self.factor * super().forward(images)


def test_journal_continues_the_same_evaluation_and_no_other(tmp_path, caplog):
    network, images, labels = make_images()
    path, kept = str(tmp_path / "x.journal"), str(tmp_path / "kept")
    first = evaluate(network, images, labels, steps=(1,), journal=path, keep=kept)
    assert first.verify(network, images, labels, kept=kept)

    def finished(network, images, labels, **settings):
        """Returns the verdicts of an evaluation that is not allowed to attack anything."""
        settings = {"steps": (1,), "journal": path, "should_stop": lambda _: True} | settings
        found = evaluate(network, images, labels, **settings)
        return [verdict.correct.tolist() for verdict in found]

    expected = [verdict.correct.tolist() for verdict in first]
    assert finished(network, images / 255, labels, keep=kept) == expected
    scaled, other = Scaled(*network).eval(), copy.deepcopy(network)
    other[1].weight.data.neg_()
    of_twice = copy.deepcopy(scaled)
    of_twice.factor = 2.0
    for changed, *given, settings in [
        (other, images, labels, {}),
        (scaled, images, labels, {}),  # same tensors, and same logits
        (network, images.flip(0), labels, {}),
        (network, images, 1 - labels, {}),
        *[
            (network, images, labels, {name: value})
            for name, value in {
                "epsilon": 0.1, "step_size": 0.1, "threat_model": "l2", "seed": 1, "steps": (2,),
                "rules": "any", "precision": "bf16", "attacks": ["fgsm"],
                "image_ids": torch.arange(N) + 1, "branch_attacks": {"a": BranchAttack("l2", 1, 1)},
            }.items()
        ],
    ]:  # fmt: skip
        caplog.clear()
        with pytest.raises(Stopped):
            finished(changed, *given, **settings)
        assert "belongs to another evaluation and is started again" in caplog.text, settings
        evaluate(network, images, labels, steps=(1,), journal=path)
    evaluate(scaled, images, labels, steps=(1,), journal=path)
    with pytest.raises(Stopped):
        finished(of_twice, images, labels)


def test_command_says_how_a_network_given_in_python_is_verified(tmp_path, capsys):
    network, images, labels = make_images()
    path = evaluate(network, images, labels, steps=(1,)).save(tmp_path / "linear.json")
    assert cli.main(["verify", str(path)]) == Status.USAGE
    assert "check it in Python, with Results.load('linear.json')" in capsys.readouterr().err


def make_dataset(images, labels):
    return Dataset("made", ("a", "b"), Split(images[:0], labels[:0]), Split(images, labels),
                   Augmentation(), "ab" * 32)  # fmt: skip


def test_images_of_a_data_set_are_recorded_as_its_own():
    network, images, labels = make_images()
    dataset = make_dataset(images, labels)
    whole = evaluate(network, images, labels, data=dataset, steps=(1,)).record
    assert (whole.dataset["sha256"], whole.dataset["classes"]) == ("ab" * 32, ["a", "b"])
    ids = torch.tensor([7, 2])
    for some in (images / 255, images.double() / 255, (images / 255).half()):
        part = evaluate(
            network, some[ids], labels[ids], data=dataset, image_ids=ids, steps=(1,)
        ).record
    assert (part.n, part.image_ids, part.dataset["test_images"]) == (2, [7, 2], N)
    assert evaluate(network, images, labels, data=dataset, steps=(1,)).verify(
        network, images, labels
    )
    for given in ((images[:5].flip(0), labels[:5]), (images.flip(0), labels)):
        with pytest.raises(EvaluationError, match="not test images of made: pass its"):
            evaluate(network, *given, data=dataset, steps=(1,))


def test_unusable_names_paths_and_labels_are_refused_in_one_sentence(tmp_path):
    network, images, labels = make_images()
    with pytest.raises(
        EvaluationError, match=r"name must be a name for a folder or file, got 'a/b'"
    ):
        evaluate(network, images, labels, name="a/b")
    with pytest.raises(EvaluationError, match=r"holds a control character"):
        evaluate(network, images, labels, data="\x1b[2J")
    with pytest.raises(InputError, match=r"labels must be classes from 0"):
        evaluate(network, images, labels - 1)
    with pytest.raises(InputError, match=r"2 classes"):
        evaluate(network, images, labels + 1)
    results = evaluate(network, images, labels, steps=(1,))
    with pytest.raises(UsageError, match=r"page's path must end in .html, got"):
        results.report(tmp_path / "page.pdf")


@pytest.mark.parametrize(
    ("module", "ask", "extra"),
    [
        ("pandas", Results.to_dataframe, "pandas"),
        ("jinja2", lambda results: results.report("page.html"), "report"),
    ],
)
def test_missing_package_is_named_with_the_extra(module, ask, extra, monkeypatch):
    network, images, labels = make_images()
    results = evaluate(network, images, labels, steps=(1,))
    for loaded in [name for name in sys.modules if name.startswith("robustnorm.reporting.")]:
        monkeypatch.delitem(sys.modules, loaded)
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ImportError, match=rf'needs .*pip install "robustnorm\[{extra}\]"'):
        ask(results)


def test_radii_are_written_as_people_do():
    sizes = (8 / 255, 3 / 16, 0.5, 128 / 255, 0.03)
    assert [fraction_text(size) for size in sizes] == [
        "8/255", "3/16", "1/2", "128/255", "3/100",
    ]  # fmt: skip

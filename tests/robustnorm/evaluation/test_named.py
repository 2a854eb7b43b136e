"""Each named attack against a direct call, written out."""

from functools import partial

import numpy as np
import pytest
import torch
from torch import nn

from robustnorm import bind, evaluate, resnet18
from robustnorm.attacks import ATTACKS, autoattack, fgsm, pgd, torchattack, worst_case
from robustnorm.attacks.contract import traits
from robustnorm.attacks.passes import Counted, Passes
from robustnorm.evaluation import chunks, named
from robustnorm.evaluation.attack import attack_chunk
from robustnorm.evaluation.search import (
    Branch,
    Search,
    branches,
    climb,
    generator_of,
    random_start,
)
from robustnorm.records.journal import Key
from robustnorm.settings.attack_names import parse_attacks
from robustnorm.settings.groups import BranchAttack

EPSILON, STEP, N, CLASSES = 0.05, 0.02, 20, 10
SEARCH = Search(EPSILON, STEP, (1,), seed=3)


@pytest.fixture(scope="module")
def model(make_network):
    # float64, in which the folded copy that searches takes the steps of the network itself.
    return make_network(CLASSES).double()


@pytest.fixture(scope="module")
def data(model):
    images = torch.rand(N, 1, 8, 8, generator=torch.Generator().manual_seed(1)).double()
    with torch.no_grad():
        labels = bind(model, "adv")(images).argmax(1)
    labels[::7] = (labels[::7] + 1) % CLASSES
    return images, labels


@pytest.fixture(autouse=True)
def small_chunk(short_worst, short_autoattack, monkeypatch):
    """Third-party code draws for a whole chunk, here all images."""
    monkeypatch.setattr(chunks, "CHUNK", N)


def run(model, data, name, search=SEARCH):
    (attack,) = parse_attacks([name])
    images = {}
    outcomes = attack_chunk(
        branches(model), *data, torch.arange(len(data[0])), search, images, attack
    )
    assert list(outcomes) == list(images) == [Key(name, "final", b, b) for b in ("clean", "adv")]
    key = Key(name, "final", "adv", "adv")
    return outcomes[key], images[key]


@torch.no_grad()
def correct(model, images, labels):
    return bind(model, "adv")(images).argmax(1) == labels


@pytest.mark.parametrize("threat_model", ["linf", "l2"])
@pytest.mark.parametrize(("name", "loss"), [("pgd-3", "ce"), ("pgd-3-margin", "margin")])
def test_pgd_is_the_attack_from_the_start_of_seed_and_id(model, data, name, loss, threat_model):
    search = SEARCH._replace(threat_model=threat_model, epsilon=0.03, step_size=0.1)
    start = random_start(data[0], torch.arange(N), search)
    expected = pgd(
        bind(model, "adv"),
        *data,
        epsilon=0.03,
        step_size=0.1,
        steps=3,
        loss=loss,
        threat_model=threat_model,
        start=start,
    )
    outcome, adv_images = run(model, data, name, search)
    # float64; sums in another order through the folded copy.
    torch.testing.assert_close(adv_images, expected, rtol=0, atol=1e-9)
    assert torch.equal(outcome.correct, correct(model, expected, data[1]))
    assert outcome.agrees.all()


def test_restarts_and_targets_are_the_worst_over_each_of_them(model, data):
    """Written out: 2 restarts x the 9 wrong classes from the likeliest down."""
    images, labels = data
    search = SEARCH._replace(epsilon=0.03, step_size=0.012)
    target_model = bind(model, "adv")
    logits = target_model(images).detach()
    order = logits.argsort(1, descending=True)
    wrong = torch.stack([row[row != label] for row, label in zip(order, labels, strict=True)])
    unbroken = torch.ones(N, dtype=torch.bool)
    singles = []
    for restart in range(2):
        start = torch.stack(
            [random_start(images[[i]], torch.tensor([i]), search, restart)[0] for i in range(N)]
        )
        for targets in wrong.unbind(1):
            adv_images = pgd(
                target_model,
                images,
                labels,
                epsilon=0.03,
                step_size=0.012,
                steps=2,
                loss="dlr",
                targets=targets,
                start=start,
            )
            singles.append(correct(model, adv_images, labels))
            unbroken &= singles[-1]
    outcome, adv_images = run(model, data, "pgd-2x2-dlr-targeted", search)
    assert torch.equal(outcome.correct, unbroken)
    assert unbroken.sum() < min(single.sum() for single in singles)
    assert torch.equal(correct(model, adv_images, labels), unbroken)


def test_restarts_begin_at_different_points(data):
    starts = [random_start(data[0], torch.arange(N), SEARCH, restart) for restart in range(3)]
    assert not torch.equal(starts[0], starts[1])
    assert not torch.equal(starts[1], starts[2])
    assert torch.equal(starts[0], random_start(data[0], torch.arange(N), SEARCH))


def test_fgsm_is_a_direct_call(model, data):
    outcome, adv_images = run(model, data, "fgsm")
    expected = fgsm(bind(model, "adv"), *data, epsilon=EPSILON)
    torch.testing.assert_close(adv_images, expected, rtol=0, atol=1e-12)  # float64
    assert torch.equal(outcome.correct, correct(model, expected, data[1]))


@pytest.mark.parametrize("name", ["apgd-ce", "torchattacks:PGD", "torchattacks:DeepFool"])
def test_code_of_others_is_a_direct_call_of_its_adapter(data, name):
    """On a network of one layer, for time; the seed is that of the chunk's first image."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, CLASSES)).eval()
    images = data[0].float()
    labels = network(images).argmax(1)
    (attack,) = parse_attacks([name])
    _, _, part = name.rpartition(":")
    if part == name:
        adapter = partial(autoattack, attacks_to_run=[part])
    else:
        adapter = partial(torchattack, name=part)
    # The images are ids 40 and up: of a chunk that does not begin the data set.
    expected = adapter(network, images, labels, epsilon=EPSILON, generator=generator_of(3, 40))
    adv_images = {}
    outcomes = attack_chunk(
        [Branch("only", network, network)],
        images,
        labels,
        torch.arange(40, 40 + N),
        SEARCH,
        adv_images,
        attack,
    )
    key = Key(name, "final", "only", "only")
    assert torch.equal(adv_images[key], expected)
    assert torch.equal(outcomes[key].correct, network(expected).argmax(1) == labels)
    assert 0 < outcomes[key].correct.sum() < N


def test_evaluate_adds_a_verdict_for_each_attack_and_branch(model, data):
    options = {"epsilon": EPSILON, "step_size": STEP, "steps": (2,), "seed": 3}
    verdicts = evaluate(model, *data, attacks=["fgsm", "pgd-2", "pgd-2x2"], serving=True, **options)
    without = evaluate(model, *data, serving=True, **options)
    answers = ["clean", "adv", "mean logits", "more confident branch"]
    added = [(v.attack, v.rule, v.attack_branch, v.score_branch) for v in verdicts[len(without) :]]
    assert added == [(name, "final", a, a) for name in ("fgsm", "pgd-2x2") for a in answers]
    for mine, its in zip(verdicts, without, strict=False):
        assert np.array_equal(mine.correct, its.correct)
    found = {v.attack: v.correct for v in verdicts if v.score_branch == v.attack_branch == "adv"}
    expected, _ = run(model, data, "pgd-2x2")
    assert np.array_equal(found["pgd-2x2"], expected.correct.numpy())


def test_named_pgd_of_as_many_steps_is_the_trajectory_s(model, data):
    """Restart 0 starts where the trajectory does."""
    outcome, _ = run(model, data, "pgd-4", SEARCH._replace(seed=0))
    verdicts = evaluate(model, *data, epsilon=EPSILON, step_size=STEP, steps=(4,))
    (found,) = [
        v.correct
        for v in verdicts
        if (v.attack, v.rule, v.attack_branch, v.score_branch) == ("pgd-4", "final", "adv", "adv")
    ]
    assert np.array_equal(outcome.correct.numpy(), found)


def test_registered_attack_has_its_name_in_evaluate(monkeypatch, model, data):
    """It receives the network, the ball, and the generator for seed and first image."""
    images, labels = data
    seen = []

    def darken(network, images, labels, *, epsilon, threat_model, generator):
        seen.append((network, threat_model, generator.initial_seed()))
        return (images - epsilon).clamp(0, 1)

    monkeypatch.setitem(ATTACKS, "darken", darken)
    verdicts = evaluate(model, images, labels, epsilon=0.3, steps=(1,), seed=3, attacks=["darken"])
    (found,) = [v.correct for v in verdicts if (v.attack, v.score_branch) == ("darken", "adv")]
    expected = correct(model, (images - 0.3).clamp(0, 1), labels)
    assert np.array_equal(found, expected.numpy())
    assert 0 < expected.sum() < N
    assert [threat_model for _, threat_model, _ in seen] == ["linf", "linf"]
    assert {seed for *_, seed in seen} == {generator_of(3, 0).initial_seed()}


def test_attack_that_is_per_image_searches_on_the_copy(monkeypatch, model, data):
    called = []

    @traits(per_image=True)
    def still(network, images, labels, *, epsilon, threat_model, generator):
        network(images)
        return images

    def watched(branch):
        def standin(images):
            called.append((branch.name, len(images)))
            return branch.standin(images)

        return branch._replace(standin=standin)

    monkeypatch.setitem(ATTACKS, "still", still)
    (attack,) = parse_attacks(["still"])
    copies = [watched(branch) for branch in branches(model)]
    attack_chunk(copies, *data, torch.arange(N), SEARCH, attack=attack)
    # Once by the attack, once for what the copy says of the result.
    assert called == [("clean", N)] * 2 + [("adv", N)] * 2


def test_what_only_the_copy_misclassifies_is_attacked_on_the_network(model, data):
    """The copy sees class 1, which is no image's label, so that an attack stops at once."""
    images, labels = data
    assert 1 not in labels
    (attack,) = parse_attacks(["worst"])
    _, branch = branches(model)
    bias = 100 * torch.eye(CLASSES, dtype=torch.float64)[1]
    misleading = branch._replace(standin=lambda images: branch.standin(images) + bias)
    misled, honest = (
        named.attack_branch(attack, each, images, labels, torch.arange(N), SEARCH, N)
        for each in (misleading, branch)
    )
    clean = correct(model, images, labels)
    assert 0 < honest.outcome.correct.sum() < clean.sum() < N
    assert torch.equal(misled.outcome.correct, honest.outcome.correct)
    torch.testing.assert_close(misled.images, honest.images, rtol=0, atol=1e-9)
    # The copy classifies every image once, and is wrong about those that the network gets right.
    assert torch.equal(misled.outcome.agrees, ~clean)
    assert misled.passes.forward == honest.passes.forward + clean.sum()


def passes_of(model, images, labels, name, ids=None):
    """Forward and backward passes of an attack on the adversarial branch."""
    options = {"epsilon": 0.1, "step_size": 0.05, "image_ids": ids}
    verdicts = evaluate(model, images, labels, attacks=[name], **options)
    return {(v.attack, v.rule): (v.forward, v.backward) for v in verdicts if branch_of(v) == "adv"}


def branch_of(verdict):
    return verdict.attack_branch if verdict.attack_branch == verdict.score_branch else None


def test_passes_of_pgd_are_its_steps_and_of_clean_images_none(model, data):
    found = passes_of(model, *data, "pgd-3-targeted")
    assert found["none", "final"] == (0, 0)
    for rule in ("final", "any"):
        assert found["pgd-10", rule] == (10 * N, 10 * N)
        assert found["pgd-20", rule] == (20 * N, 20 * N)
    forward, backward = found["pgd-3-targeted", "final"]
    assert forward == backward + N  # a look at each image for its likeliest wrong classes
    assert backward % 3 == 0
    assert 3 * N <= backward < 3 * N * (CLASSES - 1)  # broken images are attacked no more


def test_passes_of_worst_are_those_of_a_direct_call_whatever_the_chunks(model, data):
    images, labels = data
    counted = Counted(bind(model, "adv"))
    worst_case(counted, images, labels, epsilon=0.1)
    assert passes_of(model, images, labels, "worst")["worst", "final"] == counted.passes
    halves = [slice(0, 7), slice(7, N)]
    found = [
        passes_of(model, images[half], labels[half], "worst", torch.arange(N)[half])
        for half in halves
    ]
    assert Passes.sum(Passes(*half["worst", "final"]) for half in found) == counted.passes


def test_broken_images_are_attacked_no_more(model, data, monkeypatch):
    """What is left of the later results fills the batches that broken images leave."""
    images, labels = data
    copies = branches(model)[1:]
    climbs = []

    def counted(branch, images, *arguments, **options):
        climbs.append(len(images))
        return climb(branch, images, *arguments, **options)

    monkeypatch.setattr(named, "climb", counted)
    (attack,) = parse_attacks(["pgd-2x3-margin-targeted"])
    search = SEARCH._replace(epsilon=0.03, step_size=0.02)
    outcome = attack_chunk(copies, images, labels, torch.arange(N), search, attack=attack)
    broken = N - sum(o.correct.sum().item() for o in outcome.values())
    assert 0 < broken < N
    assert set(climbs[:-1]) == {N}
    rounds = 3 * (CLASSES - 1)
    assert rounds * (N - broken) / N <= len(climbs) < rounds


@pytest.mark.parametrize(("channels", "classes"), [(1, 2), (3, 12)])
def test_worst_attacks_each_branch_in_its_own_ball_and_each_rule(channels, classes):
    torch.manual_seed(0)
    network = resnet18("auxbn", width=4, num_classes=classes, in_channels=channels).eval()
    images = torch.rand(12, channels, 8, 8)
    with torch.no_grad():
        labels = bind(network, "adv")(images).argmax(1)
    search = SEARCH._replace(branch_attacks={"adv": BranchAttack("l2", 0.5, 0.1)})
    (attack,) = parse_attacks(["worst"])
    adv_images = {}
    attacked = branches(network, serving=True)
    ids = torch.arange(12)
    outcomes = attack_chunk(attacked, images, labels, ids, search, adv_images, attack)
    assert [key.score_branch for key in outcomes] == [branch.name for branch in attacked]
    for branch in attacked:
        key = Key("worst", "final", branch.name, branch.name)
        moved = (adv_images[key] - images).flatten(1)
        distance = moved.norm(dim=1) if branch.name == "adv" else moved.abs().amax(1)
        assert distance.max() <= (0.5 if branch.name == "adv" else EPSILON) + 1e-6
        right = branch.score(adv_images[key]).argmax(1) == labels
        assert torch.equal(outcomes[key].correct, right)
        assert right.sum() <= (branch.score(images).argmax(1) == labels).sum()

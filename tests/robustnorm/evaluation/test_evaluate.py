import copy

import numpy as np
import pytest
import torch

from robustnorm import bind, evaluate, resnet18
from robustnorm.attacks import pgd
from robustnorm.evaluation.attack import attack_chunk
from robustnorm.evaluation.chunks import CHUNK
from robustnorm.evaluation.search import Search, branches, random_start
from robustnorm.evaluation.until_broken import any_outcomes
from robustnorm.records.journal import Key

EPSILON, STEP = 0.1, 0.03
SEARCH = Search(EPSILON, STEP, (2, 4))
N = 130  # one whole chunk and one padded


@pytest.fixture(scope="module")
def model(make_network):
    # float64, in which the folded copy that searches takes the steps of the network itself.
    return make_network().double()


@pytest.fixture(scope="module")
def data(model):
    generator = torch.Generator().manual_seed(1)
    images = torch.randint(0, 256, (N, 1, 8, 8), generator=generator, dtype=torch.uint8)
    with torch.no_grad():
        labels = bind(model, "adv")(images.double() / 255).argmax(1)
    labels[::7] = (labels[::7] + 1) % 3
    return images.double() / 255, labels


def run(model, data, **options):
    arguments = {"epsilon": EPSILON, "step_size": STEP, "steps": (2, 4)} | options
    verdicts = evaluate(model, *data, **arguments)
    return {(v.attack, v.rule, v.attack_branch, v.score_branch): v.correct for v in verdicts}


@pytest.fixture(scope="module")
def verdicts(model, data):
    return run(model, data)


def test_evaluate_gives_every_verdict(verdicts):
    own = [
        (attack, rule, branch, branch)
        for branch in ("clean", "adv")
        for attack, rule in [
            ("none", "final"),
            ("pgd-2", "final"),
            ("pgd-2", "any"),
            ("pgd-4", "final"),
            ("pgd-4", "any"),
        ]
    ]
    cross = [("pgd-4", "final", "clean", "adv"), ("pgd-4", "final", "adv", "clean")]
    assert set(verdicts) == {*own, *cross}
    assert {correct.shape for correct in verdicts.values()} == {(N,)}


def test_evaluate_scores_clean_images_through_each_branch(model, data, verdicts):
    images, labels = data
    for branch in ("clean", "adv"):
        with torch.no_grad():
            expected = bind(model, branch)(images).argmax(1) == labels
        assert np.array_equal(verdicts["none", "final", branch, branch], expected.numpy())


def test_evaluate_equals_a_plain_attack_from_the_same_starts(model, data, verdicts):
    """One trajectory gives what separate attacks of 2 and of 4 steps give."""
    images, labels = data
    starts = random_start(images, torch.arange(N), SEARCH)
    for steps in (2, 4):
        for branch in ("clean", "adv"):
            target = bind(model, branch)
            adv_images = pgd(
                target,
                images[:CHUNK],
                labels[:CHUNK],
                epsilon=EPSILON,
                step_size=STEP,
                steps=steps,
                start=starts[:CHUNK],
            )
            for scorer in ("clean", "adv"):
                if scorer == branch or steps == 4:
                    with torch.no_grad():
                        expected = bind(model, scorer)(adv_images).argmax(1) == labels[:CHUNK]
                    found = verdicts[f"pgd-{steps}", "final", branch, scorer][:CHUNK]
                    assert np.array_equal(found, expected.numpy())


def test_any_never_exceeds_final_clean_or_fewer_steps(verdicts):
    for branch in ("clean", "adv"):
        clean = verdicts["none", "final", branch, branch]
        few, many = (verdicts[f"pgd-{k}", "any", branch, branch] for k in (2, 4))
        assert not (many & ~few).any()
        assert not (few & ~clean).any()
        assert not (many & ~verdicts["pgd-4", "final", branch, branch]).any()


def test_any_is_the_worst_over_all_iterates(model, data, verdicts):
    images, labels = data[0][:CHUNK], data[1][:CHUNK]
    target = bind(model, "adv")
    with torch.no_grad():
        unbroken = target(images).argmax(1) == labels
    starts = random_start(images, torch.arange(CHUNK), SEARCH)
    for steps in range(5):
        adv_images = pgd(
            target, images, labels, epsilon=EPSILON, step_size=STEP, steps=steps, start=starts
        )
        with torch.no_grad():
            unbroken &= target(adv_images).argmax(1) == labels
    assert np.array_equal(verdicts["pgd-4", "any", "adv", "adv"][:CHUNK], unbroken.numpy())


def test_random_starts_depend_on_seed_and_image_id():
    images = torch.full((3, 1, 4, 4), 0.5)

    def start(ids, seed):
        return random_start(images, torch.tensor(ids), SEARCH._replace(seed=seed))

    first = start([0, 1, 2], 0)
    assert torch.equal(first[[2, 0]], random_start(images[:2], torch.tensor([2, 0]), SEARCH))
    assert not torch.equal(first[0], first[1])
    assert not torch.equal(first, start([0, 1, 2], 1))


@pytest.fixture(scope="module")
def single_precision(model, data):
    return copy.deepcopy(model).float(), (data[0].mul(255).round().to(torch.uint8), data[1])


def test_evaluate_takes_bytes_and_float_images(single_precision):
    network, (images, labels) = single_precision
    found = run(network, (images, labels))
    expected = run(network, (images.float() / 255, labels))
    assert all(np.array_equal(found[key], expected[key]) for key in expected)


@pytest.mark.parametrize(("precision", "most"), [("fp32", 0.01), ("bf16", 0.05)])
def test_copy_that_searches_finds_what_the_network_finds(single_precision, precision, most):
    """Rounding changes few verdicts even of a random network, whose logits are nearly equal."""
    network, data = single_precision
    copies = branches(network, precision)
    chunk = (*(values[:CHUNK] for values in data), torch.arange(CHUNK), SEARCH)
    found = attack_chunk(copies, *chunk)
    expected = attack_chunk([branch._replace(standin=branch.score) for branch in copies], *chunk)
    for key, outcome in found.items():
        assert (outcome.correct != expected[key].correct).float().mean() <= most
        assert (~outcome.agrees).float().mean() <= most
        assert expected[key].agrees.all()


def test_disagreements_count_what_a_wrong_search_sees(model, data):
    """A search that sees all images as correct: its every broken image is a disagreement."""
    images, labels = data[0][:CHUNK], data[1][:CHUNK]

    def blind(branch):
        def search(images):
            return torch.eye(3, dtype=torch.float64)[labels] + 0 * branch.standin(images)

        return branch._replace(standin=search)

    attacked = [blind(branch) for branch in branches(model)]
    outcomes = attack_chunk(attacked, images, labels, torch.arange(CHUNK), SEARCH)
    for rule in ("final", "any"):
        outcome = outcomes[Key("pgd-4", rule, "adv", "adv")]
        assert not outcome.correct.all()
        if rule == "final":
            assert torch.equal(outcome.agrees, outcome.correct)


def test_verdict_is_the_network_s_where_the_search_sees_ghosts(model, data):
    """A search that sees all images as broken does not break one that the network withstands."""
    images, labels = data[0][:CHUNK], data[1][:CHUNK]
    honest = branches(model)

    def seeing_ghosts(branch):
        def search(images):
            return torch.eye(3, dtype=torch.float64)[(labels + 1) % 3] + 0 * branch.standin(images)

        return branch._replace(standin=search)

    found = attack_chunk(
        [seeing_ghosts(branch) for branch in honest], images, labels, torch.arange(CHUNK), SEARCH
    )
    outcome = found[Key("pgd-4", "any", "adv", "adv")]
    clean = found[Key("none", "final", "adv", "adv")]
    start = random_start(images, torch.arange(CHUNK), SEARCH)  # nothing moves on from there
    with torch.no_grad():
        expected = clean.correct & (honest[1].score(start).argmax(1) == labels)
    assert torch.equal(outcome.correct, expected)
    assert torch.equal(outcome.agrees, ~expected)


@pytest.mark.parametrize("branch", ["clean", "adv"])
def test_rule_any_alone_gives_the_verdicts_of_all(model, data, verdicts, branch):
    """Broken images are replaced, with the same verdict for each image."""
    found = run(model, data, rules="any")
    assert set(found) == {
        (attack, rule, name, name)
        for name in ("clean", "adv")
        for attack, rule in [("none", "final"), ("pgd-4", "any")]
    }
    for key, correct in found.items():
        assert np.array_equal(correct, verdicts[key])


class _Ghosts(torch.autograd.Function):
    """Logits of class 1 with the gradient of the given logits."""

    @staticmethod
    def forward(ctx, logits):
        ctx.save_for_backward(logits)
        return torch.tensor([0.0, 1.0, 0.0], dtype=logits.dtype).repeat(len(logits), 1)

    @staticmethod
    def backward(ctx, gradient):
        (logits,) = ctx.saved_tensors
        return logits.softmax(1) - torch.eye(3, dtype=logits.dtype)[gradient.argmin(1)]


def test_rule_any_alone_goes_on_where_the_search_sees_ghosts(model, data):
    """A search that sees every image broken at once lets all go; the verdicts are the same."""
    branch = branches(model)[1]
    ghosts = branch._replace(standin=lambda images: _Ghosts.apply(branch.standin(images)))
    wanted = (data[1] != 1)[:CHUNK]
    chunk = data[0][:CHUNK][wanted], data[1][:CHUNK][wanted], torch.arange(CHUNK)[wanted]
    weak, key = Search(EPSILON / 8, STEP / 8, (4,)), Key("pgd-4", "any", "adv", "adv")
    outcome = any_outcomes([ghosts], *chunk, weak)[key]
    expected = attack_chunk([branch], *chunk, weak)
    clean = expected[Key("none", "final", "adv", "adv")].correct
    assert torch.equal(outcome.correct, expected[key].correct)
    assert outcome.correct.any()
    assert (clean & ~outcome.correct).any()
    assert torch.equal(outcome.agrees, ~outcome.correct)


def test_rule_any_alone_lets_fallen_images_go(model, data):
    """Batches keep their size, and there are fewer than where every image stays to the end."""
    branch, sizes = branches(model)[1], []

    def watched(images):
        sizes.append(len(images))
        return branch.standin(images)

    search = Search(EPSILON, STEP, (8,))
    outcomes = any_outcomes([branch._replace(standin=watched)], *data, torch.arange(N), search)
    assert set(sizes) == {CHUNK // 2}
    clean = outcomes[Key("none", "final", "adv", "adv")].correct
    assert (clean & ~outcomes[Key("pgd-8", "any", "adv", "adv")].correct).sum() > N / 4
    assert sum(sizes) < 2 * CHUNK * 9  # two chunks, nine iterates each


def test_evaluate_of_a_network_without_branches_has_one(data):
    torch.manual_seed(0)
    network = resnet18(norm="bn", width=4, num_classes=3, in_channels=1).double().eval()
    found = run(network, data)
    assert set(found) == {
        (attack, rule, "single", "single")
        for attack, rule in [
            ("none", "final"),
            ("pgd-2", "final"),
            ("pgd-2", "any"),
            ("pgd-4", "final"),
            ("pgd-4", "any"),
        ]
    }


def test_evaluate_leaves_the_model_alone(model, data):
    before = copy.deepcopy(model.state_dict())
    run(model, data)
    assert not model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_evaluate_refuses_a_model_in_train_mode(model, data):
    network = copy.deepcopy(model)
    network[2].train()
    with pytest.raises(ValueError, match=r"call model\.eval\(\) first"):
        run(network, data)


def test_evaluate_refuses_a_bound_network(model, data):
    """Its inner route would win, and every branch would be reported with one branch's numbers."""
    with pytest.raises(ValueError, match=r"pass it the model, not bind\(model, \.\.\.\)"):
        run(bind(model, "adv"), data)


@pytest.mark.parametrize(
    ("count", "steps", "message"),
    [
        ((3, 4), (2,), r"labels must be int64 of shape \(3,\)"),
        ((0, 0), (2,), "at least one image"),
        ((3, 3), (), "steps must be whole numbers of at least 1"),
        ((3, 3), (0,), "steps must be whole numbers of at least 1"),
    ],
)
def test_evaluate_refuses_what_does_not_fit(model, data, count, steps, message):
    images, labels = data
    with pytest.raises(ValueError, match=message):
        run(model, (images[: count[0]], labels[: count[1]]), steps=steps)


def test_killed_evaluation_goes_on_where_it_was(model, data, verdicts, tmp_path, kill):
    journal, attacked = tmp_path / "deep" / "x.journal", kill()
    with pytest.raises(KeyboardInterrupt):
        run(model, data, journal=journal, fingerprint="a")
    with journal.open("a") as file:
        file.write('\n{"fingerprint": "a", "chu')  # the kill came while a line was written
    resumed = run(model, data, journal=journal, fingerprint="a")
    assert attacked == [CHUNK, N - CHUNK, N - CHUNK]
    assert all(np.array_equal(resumed[key], verdicts[key]) for key in verdicts)


def test_journal_of_another_evaluation_is_discarded(model, data, verdicts, tmp_path):
    journal = tmp_path / "x.journal"
    images, labels = data
    run(model, (images, (labels + 1) % 3), journal=journal, fingerprint="a")
    found = run(model, data, journal=journal, fingerprint="b")
    assert all(np.array_equal(found[key], verdicts[key]) for key in verdicts)

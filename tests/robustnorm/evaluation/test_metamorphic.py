"""What must not change a verdict, over every norm and attack.

In float64, where the order of a sum moves no verdict: which kernels a processor runs is no matter.
"""

import copy

import pytest
import torch
from torch import nn

from robustnorm import bind, evaluate, fold
from robustnorm.evaluation import chunks
from robustnorm.norms import NORMS

N, CLASSES = 12, 4
# Radii at which some images of these random networks fall and some stand.
EPSILON = dict.fromkeys(NORMS, 0.05) | {"bn": 0.1, "saauxbn": 0.3, "ccbn": 0.03, "sabn": 0.1}
PER_IMAGE = ["fgsm", "pgd-4x2", "pgd-4-margin", "pgd-4-dlr", "pgd-4-margin-targeted", "worst"]
# The code of others, which draws for a whole batch.
PEERS = ["apgd-ce", "torchattacks:PGD"]
SCALE_FREE = ["pgd-4-margin", "pgd-4-dlr", "pgd-4-margin-targeted"]


def make_model(norm):
    torch.manual_seed(0)
    layer = NORMS[norm](6, ("clean", "adv"))
    for parameter in layer.parameters():
        parameter.data.add_(0.2 * torch.randn_like(parameter))
    for name, buffer in layer.named_buffers():
        if buffer.is_floating_point():
            moved = 0.2 * torch.rand_like(buffer)
            buffer.add_(moved if "var" in name or "second" in name else moved - 0.1)
    body = nn.Sequential(nn.Conv2d(3, 6, 3), layer, nn.ReLU(), nn.AdaptiveAvgPool2d(2))
    model = nn.Sequential(body, nn.Flatten(), nn.Linear(24, CLASSES)).double().eval()
    model[2].weight.data.mul_(4)
    model.norm = norm
    return model


def make_data(model):
    images = torch.rand(N, 3, 6, 6, generator=torch.Generator().manual_seed(1)).double()
    images = 0.1 + 0.8 * images

    labels = bind(model, "adv")(images).argmax(1)
    labels[::5] = (labels[::5] + 1) % CLASSES
    return images, labels


def run(model, images, labels, attacks=PER_IMAGE, **options):
    radius = EPSILON[model.norm]
    given = {"epsilon": radius, "step_size": radius / 2, "steps": (2, 4), "attacks": attacks}
    given |= options
    found = evaluate(model, images, labels, **given)
    return {
        (v.attack, v.rule, v.attack_branch, v.score_branch): torch.from_numpy(v.correct)
        for v in found
    }


@pytest.fixture(scope="module", autouse=True)
def _small_chunks(short_worst, short_autoattack):
    """So few images are not padded to 100."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(chunks, "CHUNK", N)
        yield


@pytest.fixture(scope="module", params=NORMS)
def setting(request):
    """Returns the network, images, labels and verdicts by all attacks of the package itself."""
    model = make_model(request.param)
    images, labels = make_data(model)
    return model, images, labels, run(model, images, labels)


@pytest.fixture(scope="module")
def with_peers():
    model = make_model("saauxbn")
    images, labels = make_data(model)
    return model, images, labels, run(model, images, labels, PEERS)


def same(found, expected):
    assert found.keys() == expected.keys()
    for key, values in found.items():
        assert torch.equal(values, expected[key]), key


def permuted(model, order):
    """The network with its classes in another order."""
    other = copy.deepcopy(model)
    with torch.no_grad():
        other[2].weight.copy_(model[2].weight[order])
        other[2].bias.copy_(model[2].bias[order])
    return other


def changed(model, after):
    other = nn.Sequential(copy.deepcopy(model), after).eval()
    other.norm = model.norm
    return other


class Plus(nn.Module):
    def forward(self, logits):
        return logits + 7


class Times(nn.Module):
    def forward(self, logits):
        return 0.1 * logits


def test_verdicts_are_worth_comparing(setting, with_peers):
    for *_, verdicts in (setting, with_peers):
        counts = [int(v.sum()) for (_, _, a, s), v in verdicts.items() if a == s != "clean"]
        assert max(counts) >= N / 2
        assert min(counts) < max(counts)


def test_batch_size_is_no_matter(setting):
    model, images, labels, expected = setting
    for i in (0, 3, 7):
        alone = run(model, images[[i]], labels[[i]], image_ids=torch.tensor([i]))
        same(alone, {key: values[[i]] for key, values in expected.items()})


def test_order_is_no_matter(setting):
    model, images, labels, expected = setting
    order = torch.randperm(N, generator=torch.Generator().manual_seed(2))
    found = run(model, images[order], labels[order], image_ids=order)
    same(found, {key: values[order] for key, values in expected.items()})


def test_order_is_no_matter_to_attacks_that_draw(with_peers):
    model, images, labels, expected = with_peers
    order = torch.randperm(N, generator=torch.Generator().manual_seed(2))
    found = run(model, images[order], labels[order], PEERS, image_ids=order)
    same(found, {key: values[order] for key, values in expected.items()})


ORDER = torch.tensor([2, 0, 3, 1])


def test_names_of_the_classes_are_no_matter(setting):
    model, images, labels, expected = setting
    same(run(permuted(model, ORDER), images, ORDER.argsort()[labels]), expected)


def test_names_of_the_classes_are_no_matter_to_attacks_that_draw(with_peers):
    model, images, labels, expected = with_peers
    same(run(permuted(model, ORDER), images, ORDER.argsort()[labels], PEERS), expected)


def test_constant_added_to_the_logits_is_no_matter(setting):
    model, images, labels, expected = setting
    same(run(changed(model, Plus()), images, labels), expected)


def test_folding_is_no_matter(setting):
    model, images, labels, expected = setting
    branch = "adv" if ("none", "final", "adv", "adv") in expected else "single"
    found = run(fold(model, "adv"), images, labels)
    same(found, {
        (attack, rule, "single", "single"): values
        for (attack, rule, attacker, scorer), values in expected.items()
        if attacker == scorer == branch
    })  # fmt: skip


@pytest.mark.parametrize("attacks", [PER_IMAGE, PEERS])
def test_memory_format_is_no_matter(attacks):
    model = make_model("saauxbn")
    images, labels = make_data(model)
    expected = run(model, images, labels, attacks)
    other = copy.deepcopy(model).to(memory_format=torch.channels_last)
    same(
        run(other, images.contiguous(memory_format=torch.channels_last), labels, attacks), expected
    )


@pytest.mark.parametrize("attacks", [PER_IMAGE, PEERS])
def test_precision_that_holds_the_images_is_no_matter(attacks):
    model = make_model("saauxbn")
    images, labels = make_data(model)
    images = images.half()
    expected = run(model, images.double(), labels, attacks)
    same(run(model, images.float(), labels, attacks), expected)
    same(run(model, images, labels, attacks), expected)


def test_scale_of_the_logits_is_no_matter_to_a_loss_that_knows_none(setting):
    """The cross-entropy knows it; then the check "loss" says so."""
    model, images, labels, expected = setting
    found = run(changed(model, Times()), images, labels, SCALE_FREE)
    same(
        {key: values for key, values in found.items() if key[0] in ["none", *SCALE_FREE]},
        {key: values for key, values in expected.items() if key[0] in ["none", *SCALE_FREE]},
    )

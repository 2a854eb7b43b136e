"""Each example runs and does what it says."""

import copy
import importlib.util
import sys
import types
from pathlib import Path

import pytest
import torch
from torch import nn

from attacks import pgd
from robustnorm import bind, fold, resnet18
from robustnorm.attacks import ATTACKS
from robustnorm.cli import main
from robustnorm.data import DATASETS
from robustnorm.evaluation import chunks
from robustnorm.models import NETWORKS
from robustnorm.norms import NORMS, RoutedBatchNorm2d
from robustnorm.norms.routing import branches_of

REGISTRIES = (ATTACKS, DATASETS, NETWORKS, NORMS)
FOLDER = Path(__file__).parents[1] / "examples"


def load(name):
    spec = importlib.util.spec_from_file_location(f"example_{name}", FOLDER / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_torchvision_network_is_converted_and_fine_tuned(torchvision_library, capsys):
    torch.manual_seed(0)
    model = load("finetune_torchvision").main(["--small"])
    layers = [module for module in model.modules() if isinstance(module, RoutedBatchNorm2d)]
    assert len(layers) == 20
    for layer in layers:  # each branch has seen its own batches and moved away from the other
        assert layer.num_batches_tracked.tolist() == [2, 2]
        assert not torch.equal(layer.running_mean[0], layer.running_mean[1])
    assert "pgd-2 final adv" in capsys.readouterr().out


# foolbox imports a name that scipy has moved.
third_party = pytest.mark.filterwarnings("ignore:.*scipy.ndimage:DeprecationWarning")


@third_party
def test_third_party_attacks_take_a_folded_branch():
    torch.manual_seed(0)
    example = load("third_party_attack")
    assert set(example.main(["--small"])) == {
        "torchattacks, PGD",
        "foolbox, LinfPGD",
        "AutoAttack, APGD-CE",
    }


@third_party
def test_third_party_attacks_break_a_trained_branch_within_the_ball(trained):
    model, images, labels = trained("auxbn")
    images, labels, network = images[:60] / 255, labels[:60], fold(model, "clean")
    before = copy.deepcopy(network.state_dict())
    results = load("third_party_attack").attack_all(network, images, labels, 3 / 16, 10)
    standard = (network(images).argmax(1) == labels).float().mean()
    ours = pgd(
        bind(model, "clean"), images, labels, epsilon=3 / 16, step_size=3 / 64, steps=10,
        generator=torch.Generator().manual_seed(0),
    )  # fmt: skip
    expected = (network(ours).argmax(1) == labels).float().mean()
    for name, adv_images in results.items():
        assert (adv_images - images).abs().max() <= 3 / 16 + 1e-6, name
        accuracy = (network(adv_images).argmax(1) == labels).float().mean()
        # Four of 60 images either way: another start, another step.
        assert accuracy <= expected + 4 / 60, name
        assert accuracy < standard - 0.3, name
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())


def test_worst_case_stands_in_for_autoattack_on_a_network_of_theirs(capsys):
    torch.manual_seed(0)
    example = load("autoattack_dropin")
    found = example.main(["--small"])
    accuracy, passes = found["worst_case"]
    assert 0 <= accuracy < 1
    assert passes > 0
    assert "images withstand" in capsys.readouterr().out


@pytest.mark.slow
def test_worst_case_leaves_no_more_than_autoattack_does(capsys):
    torch.manual_seed(0)
    pytest.importorskip("pyautoattack")
    found = load("autoattack_dropin").main(["--small", "--compare"])
    (ours, few), (theirs, many) = found["worst_case"], found["autoattack"]
    assert ours <= theirs
    assert few < many


def test_added_norm_trains_on_both_branches(capsys):
    torch.manual_seed(0)
    model = load("add_norm").main(["--small"])
    assert branches_of(model) == ("clean", "adv")
    assert not torch.equal(model.bn1.weight[0], model.bn1.weight[1])
    assert "pgd-2 final adv" in capsys.readouterr().out


def test_added_attack_takes_the_steps_of_its_paper():
    example = load("add_attack")
    weight = torch.tensor([[1.0, -2.0, 3.0]])
    # The loss of label 0 grows along -weight, whatever the images: each step has the same sign.
    model = nn.Sequential(nn.Flatten(), nn.Linear(3, 2, bias=False)).double()
    model[1].weight.data = torch.cat([weight, -weight]).double()
    images = torch.full((2, 3, 1, 1), 0.5, dtype=torch.float64)
    labels = torch.zeros(2, dtype=torch.int64)
    adv_images = example.momentum_pgd(model, images, labels, epsilon=0.1)
    expected = images - 0.1 * weight.sign().double().view(1, 3, 1, 1)
    torch.testing.assert_close(adv_images, expected, rtol=0, atol=1e-12)  # ten sums of 0.01


def test_added_attack_uses_the_sum_of_gradients():
    """Two steps in one dimension, by hand: the second gradient's sign is outvoted."""
    example = load("add_attack")
    slopes = iter([3.0, -1.0])

    class Turning(nn.Module):
        def forward(self, images):
            slope = next(slopes)
            score = slope * images.flatten(1).sum(1, keepdim=True)
            return torch.cat([-score, score], 1)

    images = torch.full((1, 1, 1, 2), 0.5)
    labels = torch.zeros(1, dtype=torch.int64)
    options = {"epsilon": 0.1, "steps": 2}
    # Scaled to mean size 1 the gradients are +1 and -1: with decay 2 the sum stays positive.
    adv_images = example.momentum_pgd(Turning(), images, labels, decay=2.0, **options)
    torch.testing.assert_close(adv_images, images + 0.1, rtol=0, atol=1e-7)


def test_added_attack_keeps_the_contract():
    example = load("add_attack")
    torch.manual_seed(0)
    model = resnet18("auxbn", width=4)  # in train mode: its running statistics must not move
    before = copy.deepcopy(model.state_dict())
    images, labels = torch.rand(4, 3, 8, 8), torch.tensor([0, 1, 2, 3])
    adv_images = example.momentum_pgd(
        bind(model, "adv"), images, labels, epsilon=0.5, threat_model="l2"
    )
    assert (adv_images - images).flatten(1).norm(dim=1).max() <= 0.5 + 1e-6
    assert not adv_images.requires_grad
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_added_attack_is_known_by_its_name(capsys):
    example = load("add_attack")
    found = {(v.attack, v.score_branch): v.correct for v in example.main()}
    assert "momentum final adv" in capsys.readouterr().out
    model, images, labels = network_of_the_example()
    adv_images = example.momentum_pgd(bind(model, "adv"), images, labels, epsilon=8 / 255)
    expected = bind(model, "adv")(adv_images).argmax(1) == labels
    assert found["momentum", "adv"].tolist() == expected.tolist()


def network_of_the_example():
    torch.manual_seed(0)
    model = resnet18("saauxbn", width=8).eval()
    images = torch.rand(16, 3, 16, 16)
    return model, images, bind(model, "adv")(images).argmax(1)


SMALL = (
    *("--epochs", "1", "--width", "4", "--train_limit", "64", "--validation", "32"),
    *("--train_steps", "1", "--validation_steps", "1", "--checks", "none", "--device", "cpu"),
    *("--worst", "false"),
    *("--test_limit", "32", "--norm", "auxbn", "--batch_size", "32"),
)


@pytest.mark.parametrize(
    ("example", "words", "name"),
    [
        ("add_dataset", ("--data", "stripes"), "stripes"),
        ("add_network", ("--network", "small_cnn"), "digits"),
        ("add_attack", ("--attacks", "[momentum]"), "momentum"),
    ],
)
def test_what_is_added_is_known_to_train_and_eval(
    example, words, name, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(chunks, "CHUNK", 32)  # no padding of 32 images to 100
    load(example)
    assert main(["train", *SMALL, *words]) == 0
    assert main(["eval", *SMALL, *words]) == 0
    assert name in capsys.readouterr().out


def test_what_nobody_added_is_refused_with_the_nearest_name(capsys):
    assert main(["train", "--network", "resnet81"]) == 2
    assert "unknown network 'resnet81'; did you mean 'resnet18'?" in capsys.readouterr().err


@pytest.fixture(autouse=True)
def as_it_was():
    """Takes back what the examples add."""
    before = [(registry, dict(registry._entries)) for registry in REGISTRIES]
    yield
    for registry, places in before:
        registry._entries = places


@pytest.fixture
def robustbench(torchvision_library, monkeypatch):
    """RobustBench's utils as torchattacks ships them; they import a part of setuptools of old."""
    pytest.importorskip("torchattacks")
    monkeypatch.setitem(sys.modules, "pkg_resources", types.ModuleType("pkg_resources"))
    sys.modules["pkg_resources"].resource_filename = None
    from robustbench import utils

    return utils


def test_robustbench_measures_a_folded_branch(robustbench, trained):
    model, images, labels = trained("auxbn")
    for branch in ("clean", "adv"):
        network = fold(model, branch)
        expected = (bind(model, branch)(images / 255).argmax(1) == labels).double().mean().item()
        accuracy = robustbench.clean_accuracy(network, images / 255, labels, batch_size=64)
        assert accuracy == pytest.approx(expected, abs=1e-6)  # float32's sum of 500 ones

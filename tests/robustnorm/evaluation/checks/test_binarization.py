import pytest
import torch
from torch import nn
from torch.nn import functional as F

from robustnorm import bind, resnet18
from robustnorm.evaluation.checks.binarization import Readouts, _readout, binarize
from robustnorm.evaluation.checks.measure import TIERS
from robustnorm.evaluation.search import Search
from robustnorm.norms import ModeNorm

TIER = TIERS["quick"]
SEARCH = Search(0.1, 0.025, (10,))


def generator():
    return torch.Generator().manual_seed(0)


def images_and_ids(n=5, channels=1):
    return torch.rand(n, channels, 8, 8, generator=generator()), torch.arange(n)


def run(model, branch="single", images=None, search=SEARCH):
    given, ids = images_and_ids()
    return binarize(
        model, branch, given if images is None else images, ids, search, TIER, generator()
    )


def test_each_row_is_read_by_its_own_readout():
    weight, bias, features = torch.randn(4, 7), torch.randn(4), torch.randn(4, 7)
    logits = Readouts(weight, bias)(features)
    for row in range(4):
        score = F.linear(features[row], weight[row][None], bias[row][None])[0]
        torch.testing.assert_close(logits[row, 1] - logits[row, 0], score)


def test_readout_tells_the_perturbed_point_from_all_others():
    inner = torch.randn(50, 64, generator=generator(), dtype=torch.float64)
    perturbed = inner[0] + 3
    logits = torch.tensor([[-2.0, 7.0], [0.0, 1.0]], dtype=torch.float64)
    weight, bias = _readout(inner, perturbed, logits)
    scores, planted = inner @ weight + bias, perturbed @ weight + bias
    assert planted > 0 > scores.max()
    torch.testing.assert_close(planted, -scores.max())  # the threshold lies in the middle
    # The two logits, half a score each way, spread as the network's: by 9.
    torch.testing.assert_close(torch.cat([scores, planted[None]]).abs().max().item(), 9.0)


def test_readout_is_fishers_discriminant():
    """Its direction maximizes the distance from the mean over the deviation around it."""
    inner = torch.randn(200, 5, generator=generator(), dtype=torch.float64)
    inner = inner * torch.tensor([0.1, 0.5, 1.0, 2.0, 5.0], dtype=torch.float64)
    perturbed = inner.mean(0) + torch.tensor([4.0, 4, 4, 4, 4], dtype=torch.float64)
    weight, _ = _readout(inner, perturbed, torch.tensor([0.0, 1.0], dtype=torch.float64))
    centered = inner - inner.mean(0)
    average = centered.square().mean()

    def ratio(direction):
        apart = direction @ (perturbed - inner.mean(0))
        around = (centered @ direction).square().mean() + average * direction.square().sum()
        return float(apart**2 / around)

    for _ in range(100):
        other = weight + 0.1 * weight.norm() * torch.randn(5, dtype=torch.float64)
        assert ratio(other) < ratio(weight)


def test_readout_is_none_where_points_do_not_differ():
    inner = torch.randn(10, 4, generator=generator())
    assert _readout(inner, inner.mean(0), torch.tensor([0.0, 1.0])) is None


@pytest.mark.parametrize("threat_model", ["linf", "l2"])
def test_pgd_finds_the_planted_example_on_linear_features(threat_model):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.Linear(64, 3)).eval()
    search = Search(0.5, 0.125, (10,), "l2") if threat_model == "l2" else SEARCH
    found = run(model, search=search)
    assert len(found.broken) == 5
    assert found.broken.all()


def test_attack_that_does_not_move_finds_nothing():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.Linear(64, 3)).eval()
    assert not run(model, search=Search(0.1, 1e-6, (1,))).broken.any()


def test_branch_is_tested_by_its_own_features_and_the_model_left_as_it_was():
    torch.manual_seed(0)
    model = resnet18(norm="auxbn", width=4, num_classes=3, in_channels=1).eval()
    images, _ = images_and_ids()
    before = [bind(model, branch)(images) for branch in ("clean", "adv")]
    assert run(model, "clean") is not None
    after = [bind(model, branch)(images) for branch in ("clean", "adv")]
    assert all(map(torch.equal, before, after))
    assert not model.fc._forward_pre_hooks


def test_networks_without_a_last_linear_layer_are_not_tested():
    convolution = nn.Sequential(nn.Conv2d(1, 3, 8), nn.Flatten()).eval()
    assert run(convolution) is None
    unused = nn.ModuleDict({"network": convolution, "head": nn.Linear(2, 2)}).eval()
    unused.forward = convolution.forward
    assert run(unused) is None


class FirstDefinedLastCalled(nn.Module):
    """Its classifier comes before ModeNorm, whose gate is then the last linear module."""

    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(4 * 36, 3)
        self.conv = nn.Conv2d(1, 4, 3)
        self.norm = ModeNorm(4)

    def forward(self, images):
        return self.fc(self.norm(self.conv(images)).flatten(1))


def test_readout_replaces_the_linear_layer_called_last():
    torch.manual_seed(0)
    model = FirstDefinedLastCalled().eval()
    assert not run(model, search=Search(0.1, 1e-6, (1,))).broken.any()  # it stays where it is
    assert run(model).broken.all()


class TwoHeads(nn.Module):
    """Averages two classifiers, as distilled transformers do."""

    def __init__(self):
        super().__init__()
        self.head, self.other = nn.Linear(64, 3), nn.Linear(64, 3)

    def forward(self, images):
        return (self.head(images.flatten(1)) + self.other(images.flatten(1))) / 2


def test_networks_whose_logits_are_not_the_last_layer_s_are_not_tested():
    assert run(TwoHeads().eval()) is None

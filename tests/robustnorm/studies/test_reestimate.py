import copy

import pytest
import torch
from torch import nn

from robustnorm import RoutingError, bind, convert, resnet18
from robustnorm.attacks import pgd
from robustnorm.norms import AuxBN
from robustnorm.studies.reestimate import drift, reestimate


@pytest.fixture
def model():
    torch.manual_seed(0)
    return resnet18(norm="auxbn", width=4, in_channels=1).eval()


def make_batches():
    generator = torch.Generator().manual_seed(1)
    # Of different sizes and brightness: an average of batch variances would miss the latter.
    return [
        shift + torch.rand(size, 1, 8, 8, generator=generator) / 2
        for size, shift in ((6, 0.0), (6, 0.4), (2, 0.1))
    ]


def first_inputs(model, batches):
    """Returns the inputs of the first norm layer, (C, all others), float64."""
    with torch.no_grad():
        inputs = model.conv1(model.normalize(torch.cat(batches))).double()
    return inputs.transpose(0, 1).flatten(1)


@pytest.mark.parametrize("row", [0, 1])
def test_first_layer_gets_mean_and_variance_of_all_images(model, row):
    batches, branch = make_batches(), ("clean", "adv")[row]
    reestimate(model, branch, batches)
    inputs = first_inputs(model, batches)
    torch.testing.assert_close(model.bn1.running_mean[row], inputs.mean(1).float())
    torch.testing.assert_close(model.bn1.running_var[row], inputs.var(1).float())
    assert model.bn1.num_batches_tracked[row] == 3


@pytest.mark.parametrize(
    ("plain", "shape"), [(nn.BatchNorm1d, (3,)), (nn.BatchNorm1d, (3, 2)),
                         (nn.BatchNorm3d, (3, 2, 2, 2))]
)  # fmt: skip
def test_layers_of_any_rank_are_estimated(plain, shape):
    model = convert(nn.Sequential(plain(3)), "auxbn").eval()
    batches = [torch.rand(size, *shape) for size in (6, 4)]
    reestimate(model, "adv", batches)
    values = torch.cat(batches).transpose(0, 1).flatten(1)
    torch.testing.assert_close(model[0].running_mean[1], values.mean(1))
    torch.testing.assert_close(model[0].running_var[1], values.var(1))
    assert torch.equal(model[0].running_mean[0], torch.zeros(3))


def test_one_batch_gives_every_layer_what_one_training_forward_gives(model):
    """With momentum 1 the running statistics are those of the last batch."""
    (images, *_), trained = make_batches(), copy.deepcopy(model).train()
    for module in trained.modules():
        if isinstance(module, AuxBN):
            module.momentum = 1.0
    bind(trained, "adv")(images)
    reestimate(model, "adv", [images])
    for name, value in trained.named_buffers():
        # torch sums a batch in float32, the re-estimation in float64.
        torch.testing.assert_close(model.get_buffer(name), value, rtol=1e-4, atol=1e-5)


def test_nothing_but_the_statistics_of_the_branch_changes(model):
    before = copy.deepcopy(model.state_dict())
    reestimate(model, "adv", make_batches())
    assert not any(module.training for module in model.modules())
    for name, value in model.state_dict().items():
        if name.rpartition(".")[2] in ("running_mean", "running_var", "num_batches_tracked"):
            assert torch.equal(value[0], before[name][0])
            assert not torch.equal(value[1], before[name][1])
        else:
            assert torch.equal(value, before[name])


def test_an_attack_that_makes_the_batches_is_not_measured(model):
    labels, made = torch.zeros(6, dtype=torch.int64), []

    def attacked():
        for images in make_batches():
            made.append(
                pgd(
                    bind(model, "adv"),
                    images,
                    labels[: len(images)],
                    epsilon=0.1,
                    step_size=0.1,
                    steps=1,
                    random_start=False,
                )
            )
            yield made[-1]

    reestimate(model, "adv", attacked())
    inputs = first_inputs(model, made)
    torch.testing.assert_close(model.bn1.running_mean[1], inputs.mean(1).float())


def test_drift_is_in_stored_standard_deviations():
    stored = AuxBN(2, eps=0.0)
    stored.running_mean[1] = torch.tensor([1.0, 2.0])
    stored.running_var[1] = torch.tensor([4.0, 0.25])
    moved = copy.deepcopy(stored)
    moved.running_mean[1] = torch.tensor([2.0, 2.0])  # 1 off, deviation 2
    moved.running_var[1] = torch.tensor([4.0, 1.0])  # deviation 1 instead of 1/2
    (found,) = drift(stored, moved, "adv")
    assert (found.mean, found.largest_mean) == (0.25, 0.5)
    assert (found.deviation, found.largest_deviation) == (0.5, 1.0)
    (unmoved,) = drift(stored, moved, "clean")
    assert unmoved.largest_mean == unmoved.largest_deviation == 0


@pytest.mark.parametrize("norm", ["bn", "ccbn", "modenorm"])
def test_model_without_statistics_of_branches_is_refused(norm):
    with pytest.raises(ValueError, match="such as auxbn"):
        reestimate(resnet18(norm=norm, width=4), "adv", make_batches())


def test_no_batch_and_an_unknown_branch_are_refused(model):
    with pytest.raises(ValueError, match="at least one batch"):
        reestimate(model, "adv", [])
    with pytest.raises(RoutingError, match="no branch 'l2'"):
        reestimate(model, "l2", make_batches())

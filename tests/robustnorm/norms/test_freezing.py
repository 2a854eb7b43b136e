import pytest
import torch
from torch import nn

from robustnorm import RoutingError, route
from robustnorm.norms import NORMS, freeze

ROUTED = {n: NORMS[n](1, ("a",)) for n in NORMS if n not in ("bn", "modenorm")}
SPLIT = [name for name, layer in ROUTED.items() if layer.affine != "shared"]
OPTIMIZERS = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, weight_decay=0.1),
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.1, weight_decay=0.1),
}


def make(norm, optimizer):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 1), NORMS[norm](4, ("clean", "adv")))
    return model, OPTIMIZERS[optimizer](model.parameters())


def step(model, optimizer, branch):
    optimizer.zero_grad()
    with route(model, branch):
        model(torch.randn(4, 3, 5, 5)).pow(3).sum().backward()
    optimizer.step()


def row(layer, i):
    return torch.stack([layer.weight[i], layer.bias[i]]).detach().clone()


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("norm", SPLIT)
def test_step_on_one_branch_moves_the_affine_of_another(norm, optimizer):
    """The documented difference from two batch norms, which ``freeze`` is for."""
    model, optimizer = make(norm, optimizer)
    before = row(model[1], 0)
    step(model, optimizer, "adv")
    assert not torch.equal(row(model[1], 0), before)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("norm", SPLIT)
def test_frozen_branch_stays_and_all_else_learns(norm, optimizer):
    model, optimizer = make(norm, optimizer)
    for branch in ("clean", "adv"):  # momentum of both
        step(model, optimizer, branch)
    layer = model[1]
    state = {
        key: value[0].clone()
        for key, value in optimizer.state[layer.weight].items()
        if value.shape == layer.weight.shape
    }
    clean, adv, convolution = row(layer, 0), row(layer, 1), model[0].weight.detach().clone()
    with freeze(model, "clean", optimizer):
        for _ in range(3):
            step(model, optimizer, "adv")
    assert torch.equal(row(layer, 0), clean)
    assert all(torch.equal(optimizer.state[layer.weight][key][0], state[key]) for key in state)
    assert (row(layer, 1) != adv).all()
    assert (model[0].weight != convolution).all()
    step(model, optimizer, "adv")
    assert not torch.equal(row(layer, 0), clean)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_branch_frozen_from_the_first_step_gathers_no_momentum(optimizer):
    model, optimizer = make("auxbn", optimizer)
    with freeze(model, "clean", optimizer):
        step(model, optimizer, "adv")
    assert row(model[1], 0).tolist() == [[1.0] * 4, [0.0] * 4]
    for value in optimizer.state[model[1].weight].values():
        assert value.shape != (2, 4) or not value[0].any()


def test_branches_frozen_in_turn_train_as_two_batch_norms():
    """Alternate steps with SGD and weight decay, each branch frozen while the other learns."""
    torch.manual_seed(0)
    layer, peers = NORMS["auxbn"](4, ("clean", "adv")), [nn.BatchNorm2d(4), nn.BatchNorm2d(4)]
    optimizer = OPTIMIZERS["sgd"](layer.parameters())
    optimizers = [OPTIMIZERS["sgd"](peer.parameters()) for peer in peers]
    for number in (0, 1, 0, 0, 1):
        images = torch.randn(4, 4, 5, 5)
        optimizer.zero_grad()
        optimizers[number].zero_grad()
        with route(layer, layer.branches[number]):
            layer(images).pow(3).sum().backward()
        peers[number](images).pow(3).sum().backward()
        with freeze(layer, layer.branches[1 - number], optimizer):
            optimizer.step()
        optimizers[number].step()
    for i, peer in enumerate(peers):
        # Two float32 roundings: the optimizer adds to rows of one tensor or to two tensors.
        torch.testing.assert_close(layer.weight[i], peer.weight, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(layer.bias[i], peer.bias, rtol=1e-5, atol=1e-5)


def test_freeze_refuses_an_unknown_branch():
    model, optimizer = make("auxbn", "sgd")
    with pytest.raises(RoutingError, match="no branch 'l2'"), freeze(model, "l2", optimizer):
        pass

"""Routing: the right branch or a clear error, never silently another one."""

import copy
import pickle
import threading

import pytest
import torch
import torchattacks
from torch import nn
from torch.utils.checkpoint import checkpoint

from robustnorm import RoutingError, bind, resnet18, route
from robustnorm.attacks import pgd
from robustnorm.norms import AuxBN
from robustnorm.norms.routing import branches_of, routed_layers


def make_layer(branches=("clean", "adv")):
    """A layer in evaluation mode whose branch i adds i to the images."""
    layer = AuxBN(1, branches).eval()
    layer.bias.data.copy_(torch.arange(float(len(branches)))[:, None])
    return layer


def make_model():
    return nn.Sequential(make_layer(), nn.Conv2d(1, 1, 1), make_layer())


ZERO = torch.zeros(1, 1, 2, 2)


def active(layer):
    """Which branch a layer made by make_layer runs, or why it refuses."""
    try:
        return layer(ZERO).unique().item()
    except RoutingError:
        return "refused"


def test_route_selects_a_named_branch():
    layer = make_layer(("clean", "linf", "l2"))
    for number, branch in enumerate(layer.branches):
        with route(layer, branch):
            assert active(layer) == number


def test_route_reaches_every_routed_layer():
    model = make_model()
    with route(model, "adv"):
        assert [active(layer) for layer in routed_layers(model)] == [1, 1]


def test_routed_layer_refuses_to_run_outside_a_route():
    message = r"AuxBN has branches 'clean', 'adv' and no default.*with route\(model, branch\)"
    with pytest.raises(RoutingError, match=message):
        make_layer()(ZERO)


def test_route_nests_and_restores():
    layer = make_layer()
    with route(layer, "clean"):
        with route(layer, "adv"):
            assert active(layer) == 1
        assert active(layer) == 0
    assert active(layer) == "refused"


def test_route_restores_after_an_exception():
    layer = make_layer()

    def fail_inside():
        with route(layer, "adv"):
            raise KeyError

    with route(layer, "clean"):
        with pytest.raises(KeyError):
            fail_inside()
        assert active(layer) == 0


def test_route_left_out_of_order_revives_nothing():
    layer = make_layer()
    first, second = route(layer, "clean"), route(layer, "adv")
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert active(layer) == 1
    second.__exit__(None, None, None)
    assert active(layer) == "refused"


def test_route_of_one_model_leaves_another_alone():
    model, other = make_layer(), make_layer()
    with route(model, "adv"):
        assert active(other) == "refused"
        with route(other, "clean"):
            assert (active(model), active(other)) == (1, 0)


def test_route_does_not_follow_a_deep_copy():
    model = make_layer()
    with route(model, "adv"):
        duplicate = copy.deepcopy(model)
        assert active(duplicate) == "refused"
        with route(duplicate, "clean"):
            assert (active(model), active(duplicate)) == (1, 0)


def test_routed_layer_pickles_without_its_route():
    model = make_layer()
    with route(model, "adv"):
        duplicate = pickle.loads(pickle.dumps(model))
        assert active(duplicate) == "refused"


def test_route_on_a_submodule_reaches_only_its_layers():
    model = make_model()
    with route(model, "clean"), route(model[2], "adv"):
        assert [active(model[0]), active(model[2])] == [0, 1]


def test_route_on_a_model_without_routed_layers_does_nothing():
    model = nn.BatchNorm2d(1).eval()
    with route(model, "whatever"):
        assert torch.equal(model(ZERO), ZERO)


def test_route_splits_a_batch_into_equal_parts():
    layer = make_layer(("clean", "linf", "l2"))
    with route(layer, ("l2", "clean", "l2")):
        output = layer(torch.zeros(6, 1, 1, 1))
    assert output.flatten().tolist() == [2, 2, 0, 0, 2, 2]


def test_route_chooses_a_branch_for_each_sample():
    layer = make_layer()
    with route(layer, torch.tensor([1, 0, 0, 1])):
        assert layer(torch.zeros(4, 1, 1, 1)).flatten().tolist() == [1, 0, 0, 1]


@pytest.mark.parametrize(
    ("branch", "message"),
    [
        ("adversarial", "no branch 'adversarial': AuxBN has 'clean', 'adv'"),
        (("clean", "l2"), "no branch 'l2': AuxBN has 'clean', 'adv'"),
        ((), "must be a name, a sequence of names or an int64 tensor"),
        (1, "must be a name, a sequence of names or an int64 tensor, got 1"),
        (torch.tensor([0, 2]), r"must lie in 0\.\.1 \('clean', 'adv'\), got values from 0 to 2"),
        (torch.tensor([-1, 0]), "got values from -1 to 0"),
        (torch.tensor([0.0]), "int64 tensor of shape"),
        (torch.tensor([[0]]), r"got torch.int64 of shape \(1, 1\)"),
    ],
    ids=str,
)
def test_route_refuses_what_does_not_exist(branch, message):
    model = make_model()
    with pytest.raises(RoutingError, match=message), route(model, branch):
        pass
    assert active(model[0]) == "refused"


@pytest.mark.parametrize(
    ("branch", "message"),
    [
        (("clean", "adv"), "a batch of 3 does not divide into 2 equal parts.*'clean', 'adv'"),
        (torch.tensor([0, 1]), "branch indices for 2 samples, the batch has 3"),
    ],
    ids=["parts", "index"],
)
def test_routed_layer_refuses_a_batch_that_does_not_fit(branch, message):
    layer = make_layer()
    with route(layer, branch), pytest.raises(RoutingError, match=message):
        layer(torch.zeros(3, 1, 1, 1))


def test_threads_route_the_same_model_at_once():
    layer = make_layer()
    both_inside = threading.Barrier(2, timeout=10)
    seen = {}

    def work(branch):
        with route(layer, branch):
            both_inside.wait()
            seen[branch] = active(layer)
            both_inside.wait()

    threads = [threading.Thread(target=work, args=(branch,)) for branch in layer.branches]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seen == {"clean": 0, "adv": 1}


def test_thread_without_a_route_is_refused():
    layer = make_layer()
    seen = []
    with route(layer, "adv"):
        thread = threading.Thread(target=lambda: seen.append(active(layer)))
        thread.start()
        thread.join()
    assert seen == ["refused"]


def test_bind_fixes_the_branch():
    model = make_layer()
    bound = bind(model, "adv")
    with route(model, "clean"):
        assert bound(ZERO).unique().item() == 1
        assert active(model) == 0
    assert bound(ZERO).unique().item() == 1


def test_bind_shares_parameters_and_mode():
    model = make_model()
    bound = bind(model, "adv").train()
    assert model.training
    assert set(bound.parameters()) == set(model.parameters())


def test_bind_refuses_an_unknown_branch_at_once():
    with pytest.raises(RoutingError, match="no branch 'advs'"):
        bind(make_model(), "advs")


def test_bind_of_a_model_without_routed_layers_is_the_model():
    model = nn.Conv2d(1, 2, 1)
    assert torch.equal(bind(model, "adv")(ZERO), model(ZERO))


def test_branches_of_refuses_layers_that_differ():
    model = nn.Sequential(make_layer(), make_layer(("clean", "l2")))
    with pytest.raises(RoutingError, match="'clean', 'adv' and 'clean', 'l2'"):
        branches_of(model)


@pytest.mark.parametrize("branch", ["clean", "adv"])
def test_checkpointed_bind_recomputes_the_right_branch(branch):
    model, images = make_model().train(), torch.rand(4, 1, 3, 3)
    gradients = []
    for recompute in (False, True):
        model.zero_grad()
        bound = bind(model, branch)
        output = checkpoint(bound, images, use_reentrant=False) if recompute else bound(images)
        output.square().sum().backward()
        gradients.append([parameter.grad.clone() for parameter in model.parameters()])
    torch.testing.assert_close(gradients[0], gradients[1], rtol=0, atol=0)


@pytest.mark.parametrize("around_backward", [None, "clean", "adv"])
def test_checkpointed_forward_outside_its_route_is_refused(around_backward):
    model = make_model().train()
    with route(model, "clean"):
        output = checkpoint(model, torch.rand(4, 1, 3, 3), use_reentrant=False)
    if around_backward is None:
        with pytest.raises(RoutingError):
            output.sum().backward()
    else:
        with (
            route(model, around_backward),
            pytest.raises(RoutingError, match="recomputed during backward"),
        ):
            output.sum().backward()


@pytest.mark.parametrize("fullgraph", [False, True])
def test_compiled_model_follows_the_route(fullgraph):
    torch.compiler.reset()
    model = make_model()
    model[1].weight.data.fill_(1.0)
    model[1].bias.data.fill_(0.0)
    compiled = torch.compile(model, backend="eager", fullgraph=fullgraph)
    seen = []
    for branch in ("clean", "adv", "clean", ("adv", "clean")):
        with route(compiled, branch):
            seen.append(compiled(torch.zeros(2, 1, 1, 1)).round().flatten().tolist())
    assert seen == [[0, 0], [2, 2], [0, 0], [2, 0]]


# torch.compile looks at .grad of the tensors that it carries over a graph break.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")
def test_compiled_model_follows_a_branch_for_each_sample():
    torch.compiler.reset()
    layer = make_layer()
    compiled = torch.compile(layer, backend="eager")
    for index in ([0, 1, 1], [1, 0, 1], [0, 0, 0]):
        with route(layer, torch.tensor(index)):
            assert compiled(torch.zeros(3, 1, 1, 1)).flatten().tolist() == index


def test_compiled_model_refuses_a_thread_without_a_route():
    torch.compiler.reset()
    layer = make_layer()
    compiled = torch.compile(layer, backend="eager")
    seen = []
    with route(layer, "adv"):
        assert compiled(ZERO).unique().item() == 1
        thread = threading.Thread(target=lambda: seen.append(active(compiled)))
        thread.start()
        thread.join()
    assert seen == ["refused"]


def test_compiled_model_refuses_to_run_outside_a_route():
    torch.compiler.reset()
    layer = make_layer()
    compiled = torch.compile(layer, backend="eager")
    with route(layer, "adv"):
        compiled(ZERO)
    with pytest.raises(RoutingError):
        compiled(ZERO)


def test_compiled_bind_runs_its_branch():
    torch.compiler.reset()
    layer = make_layer()
    for branch, expected in (("adv", 1), ("clean", 0)):
        compiled = torch.compile(bind(layer, branch), backend="eager")
        assert compiled(ZERO).unique().item() == expected


def test_bound_has_the_mode_of_its_model_whenever_it_is_asked():
    model = resnet18("auxbn", width=4)
    adv = bind(model, "adv")
    assert adv.training
    model.eval()
    assert not adv.training
    adv.train()
    assert model.training
    assert model.layer1.training
    adv.eval()
    assert not any(module.training for module in (*model.modules(), *adv.modules()))


def test_library_that_restores_the_mode_leaves_the_model_in_evaluation():
    """torchattacks puts a model whose flag says training back into train mode after an attack."""
    torch.manual_seed(0)
    model = resnet18("auxbn", width=4).eval()
    images, labels = torch.rand(6, 3, 8, 8), torch.arange(6)
    adv = bind(model, "adv")
    peer = torchattacks.PGD(adv, eps=0.05, alpha=0.01, steps=3, random_start=False)
    before = copy.deepcopy(model.state_dict())
    for _ in range(2):
        adv_images = peer(images, labels)
    assert not any(module.training for module in model.modules())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    expected = pgd(adv, images, labels, epsilon=0.05, step_size=0.01, steps=3, random_start=False)
    # Both in float32: a pixel whose gradient rounds to another sign would differ by 0.02.
    assert ((adv_images - expected).abs() > 1e-6).float().mean() < 0.01

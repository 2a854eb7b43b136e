import pytest
import torch
from torch.nn import functional as F

from robustnorm.applications.nas.cell import MixedCell, MixedConvolution, sample_operations
from robustnorm.applications.nas.space import EDGES, leaving, path

NORMS = ("bn", "affine", "ccbn", "sabn")
C = 4
SAMPLED = (4, 2, 3, 1, 0, 2)


def naive(cell, x, weights, sampled):
    """Sums over the edges one after the other, with a convolution and norm for each."""
    nodes = [x]
    for target in range(1, 4):
        total = 0
        for edge, (end, source) in enumerate(EDGES):
            if end != target:
                continue
            place = leaving(source).index(edge)
            own = slice(place * C, (place + 1) * C)
            row = path(source, sampled, cell.paths)
            outputs = [torch.zeros_like(x), nodes[source]]
            for mixed in (cell.conv1x1[source], cell.conv3x3[source]):
                kernel = mixed.conv.weight[own]
                h = F.conv2d(F.relu(nodes[source]), kernel, padding=kernel.shape[-1] // 2)
                mean = h.mean((0, 2, 3), keepdim=True)
                var = h.var((0, 2, 3), unbiased=False, keepdim=True)
                h = (h - mean) / (var + 1e-5).sqrt()
                norm = mixed.norm
                if norm is not None:
                    shape = (1, C, 1, 1)
                    if norm.affine == "sandwich":
                        shared = norm.shared_weight[own], norm.shared_bias[own]
                        h = h * shared[0].view(shape) + shared[1].view(shape)
                    weight, bias = (
                        (p if norm.affine == "shared" else p[row])[own]
                        for p in (norm.weight, norm.bias)
                    )
                    h = h * weight.view(shape) + bias.view(shape)
                outputs.append(h)
            outputs.append(
                F.avg_pool2d(nodes[source], 3, 1, 1, ceil_mode=False, count_include_pad=False)
            )
            total = total + sum(w * o for w, o in zip(weights[edge], outputs, strict=True))
        nodes.append(total)
    return nodes[-1]


def make(norm, paths="release"):
    torch.manual_seed(0)
    cell = MixedCell(C, norm, paths).double()
    for parameter in cell.parameters():  # affines that are no identity
        if parameter.dim() < 4:
            torch.nn.init.uniform_(parameter, 0.5, 1.5)
    x = torch.randn(6, C, 5, 5, dtype=torch.float64)
    weights = torch.randn(6, 5, dtype=torch.float64).softmax(1).requires_grad_()
    return cell, x, weights


@pytest.mark.parametrize("paths", ["release", "paper"])
@pytest.mark.parametrize("norm", NORMS)
def test_merged_cell_is_the_naive_sum_over_edges(norm, paths):
    cell, x, weights = make(norm, paths)
    merged, expected = cell(x, weights, SAMPLED), naive(cell, x, weights, SAMPLED)
    torch.testing.assert_close(merged, expected, rtol=0, atol=1e-6)
    wanted = [weights, *cell.parameters()]
    cotangent = torch.randn_like(merged)
    for ours, theirs in zip(
        torch.autograd.grad((merged * cotangent).sum(), wanted),
        torch.autograd.grad((expected * cotangent).sum(), wanted),
        strict=True,
    ):
        torch.testing.assert_close(ours, theirs, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("norm", NORMS)
def test_evaluation_uses_batch_statistics_too(norm):
    cell, x, weights = make(norm)
    trained = cell.train()(x, weights, SAMPLED)
    torch.testing.assert_close(cell.eval()(x, weights, SAMPLED), trained, rtol=0, atol=0)
    assert not list(cell.buffers())


def test_parameters_are_as_many_as_the_release_s():
    counts = {
        norm: sum(p.numel() for p in MixedCell(8, norm, "release").parameters()) for norm in NORMS
    }
    assert counts == {"bn": 3840, "affine": 4032, "ccbn": 5056, "sabn": 5248}


def test_paper_s_paths_are_five():
    cell = MixedCell(8, "ccbn", "paper")
    assert [len(mixed.norm.weight) for mixed in cell.conv3x3] == [1, 5, 5]


def copied(to, source):
    to.load_state_dict(source.state_dict(), strict=False)
    return to


def test_sabn_with_an_identity_shared_affine_is_ccbn_bit_for_bit():
    ccbn, x, weights = make("ccbn")
    sabn = copied(make("sabn")[0], ccbn)
    for mixed in (*sabn.conv1x1, *sabn.conv3x3):
        torch.nn.init.ones_(mixed.norm.shared_weight)
        torch.nn.init.zeros_(mixed.norm.shared_bias)
    found = sabn(x, weights, SAMPLED)
    torch.testing.assert_close(found, ccbn(x, weights, SAMPLED), rtol=0, atol=0)


def test_ccbn_with_one_path_is_affine():
    torch.manual_seed(0)
    ccbn = MixedConvolution(C, 3, 3, "ccbn", 1)
    affine = MixedConvolution(C, 3, 3, "affine", 1)
    affine.conv.weight.data.copy_(ccbn.conv.weight)
    affine.norm.weight.data.copy_(ccbn.norm.weight[0])
    x, weights = torch.randn(4, C, 5, 5), torch.rand(3)
    torch.testing.assert_close(affine(x, weights, 0), ccbn(x, weights, 0), rtol=0, atol=0)


def test_affine_without_effect_is_bn():
    affine, x, weights = make("affine")
    for mixed in (*affine.conv1x1, *affine.conv3x3):
        mixed.norm.reset_parameters()
    bn = copied(make("bn")[0], affine)
    torch.testing.assert_close(
        bn(x, weights, SAMPLED), affine(x, weights, SAMPLED), rtol=0, atol=1e-12
    )


def test_only_the_sampled_path_of_an_edge_learns():
    cell, x, weights = make("ccbn")
    cell(x, weights, SAMPLED).square().sum().backward()
    for source in range(3):
        gradient = cell.conv3x3[source].norm.weight.grad.abs().sum(1)
        assert gradient.nonzero().flatten().tolist() == [path(source, SAMPLED, "release")]


def test_operations_are_drawn_from_softmax_of_alpha():
    alpha = torch.randn(6, 5, generator=torch.Generator().manual_seed(0))
    drawn = torch.tensor(sample_operations(alpha, 20_000, torch.Generator().manual_seed(1)))
    assert drawn.shape == (20_000, 6)
    frequencies = torch.stack([(drawn == o).double().mean(0) for o in range(5)], dim=1)
    expected = alpha.double().softmax(1)
    error = (expected * (1 - expected) / len(drawn)).sqrt()
    assert ((frequencies - expected).abs() < 5 * error).all()


def test_drawing_leaves_the_global_random_state_alone():
    before = torch.get_rng_state()
    sample_operations(torch.zeros(6, 5), 3, torch.Generator().manual_seed(0))
    assert torch.equal(torch.get_rng_state(), before)

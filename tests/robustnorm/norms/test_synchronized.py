"""Layers with statistics over all processes, of which there is one here; two train elsewhere."""

import pytest
import torch
import torch.distributed as dist
from torch import nn

from robustnorm import route
from robustnorm.norms import NORMS
from robustnorm.norms.synchronized import synchronize


@pytest.fixture
def process_group(tmp_path):
    store = dist.FileStore(str(tmp_path / "store"), 1)
    dist.init_process_group("gloo", store=store, rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.mark.parametrize("norm", NORMS)
def test_second_derivative_over_processes_is_right_or_refused(process_group, norm):
    torch.manual_seed(0)
    layer = NORMS[norm](3, ("clean", "adv")).double()
    inputs = torch.randn(4, 3, 2, 2, dtype=torch.float64, requires_grad=True)

    def penalty():
        with route(layer, "adv"):
            output = layer(inputs)
        # Linear in the output: what reaches the layer's backward is a constant.
        (grad,) = torch.autograd.grad(output[:, :, 0].sum(), inputs, create_graph=True)
        return torch.autograd.grad(grad.square().sum(), inputs)[0]

    expected = penalty()
    model = nn.Sequential(layer)
    synchronize(model)
    if norm == "modenorm":
        torch.testing.assert_close(penalty(), expected, rtol=1e-12, atol=1e-12)
    else:
        with pytest.raises(RuntimeError, match="only first derivatives, got create_graph=True"):
            penalty()

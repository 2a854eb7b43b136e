"""Precision of the forwards that give verdicts."""

import pytest
import torch
from torch import backends, nn
from torch.backends import cudnn

from robustnorm.evaluation.chunks import classify
from robustnorm.system.precision import exact_float32

OPERATIONS = {
    "matmul": backends.cuda.matmul,
    "conv": cudnn.conv,
    "rnn": cudnn.rnn,
    "matmul on CPU": backends.mkldnn.matmul,
    "conv on CPU": backends.mkldnn.conv,
}


def sets(owner, precision):
    return lambda: setattr(owner, "fp32_precision", precision)


SETTINGS = {
    "none": lambda: None,
    "everything in TF32": sets(backends, "tf32"),
    "everything in float32": sets(backends, "ieee"),
    "convolutions in float32": sets(cudnn.conv, "ieee"),
    "matmul in TF32": sets(backends.cuda.matmul, "tf32"),
    "convolutions on CPU in bf16": sets(backends.mkldnn.conv, "bf16"),
    "old interface, high": lambda: torch.set_float32_matmul_precision("high"),
    "old interface, medium": lambda: torch.set_float32_matmul_precision("medium"),
    "fastest kernels": lambda: setattr(cudnn, "benchmark", True),
    "equal kernels": lambda: setattr(cudnn, "deterministic", True),
}


def precisions():
    return {name: operations.fp32_precision for name, operations in OPERATIONS.items()}


@pytest.fixture(autouse=True)
def _restored():
    yield
    for owner in (backends, backends.mkldnn.conv):
        owner.fp32_precision = "none"
    torch.set_float32_matmul_precision("highest")
    cudnn.allow_tf32, cudnn.benchmark, cudnn.deterministic = True, False, False


@pytest.mark.parametrize("setting", SETTINGS)
def test_verdicts_are_in_float32_whatever_the_caller_set(setting):
    SETTINGS[setting]()
    before = precisions(), cudnn.benchmark, cudnn.deterministic
    with exact_float32():
        assert set(precisions().values()) <= {"ieee", "none"}
        assert (cudnn.benchmark, cudnn.deterministic) == (False, before[2])
    assert (precisions(), cudnn.benchmark, cudnn.deterministic) == before


def test_network_is_classified_after_torch_s_new_interface_was_used():
    """Reading the old one then raises an error."""
    images = torch.rand(2, 3, 2, 2)
    network = nn.Sequential(nn.Flatten(), nn.Linear(12, 3)).eval()
    cudnn.conv.fp32_precision = "ieee"
    with pytest.raises(RuntimeError, match="mix of the legacy and new APIs"):
        cudnn.allow_tf32  # noqa: B018
    assert classify(network, images, network(images).argmax(1), torch.arange(2)).correct.all()
